"""From a scan to batches of blocks of neighbouring frames."""
