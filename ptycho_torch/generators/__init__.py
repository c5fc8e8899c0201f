"""Networks that turn the frames on a canvas into an object, found by name in :mod:`.registry`."""
