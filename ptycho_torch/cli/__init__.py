"""The older entry points of the backend, `python -m ptycho_torch.train` and `python -m ptycho_torch.inference`."""
