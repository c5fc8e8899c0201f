"""What scripts run: loading a scan, and the workflows that choose a backend."""
