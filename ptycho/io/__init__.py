"""Readers and writers. Importing this package imports nothing else; h5py is imported when an HDF5 file is
touched.
"""
