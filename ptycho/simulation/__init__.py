"""Parts of the simulator: objects, probes, scan patterns.  `ptycho.diffsim` is the public face."""
