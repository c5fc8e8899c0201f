"""Laws of the diffraction model and of the solvers, each checked against a second derivation in NumPy."""
