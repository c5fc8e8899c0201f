"""Stands in for torchvision, of which the peer's LSQML needs nothing: see ../../../peer.py."""
