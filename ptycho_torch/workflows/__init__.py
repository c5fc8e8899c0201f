"""What callers run: a scan in, an object out."""
