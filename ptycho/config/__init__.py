"""Public configuration; everything is in `ptycho.config.config`.

Importing this package imports nothing else.
"""
