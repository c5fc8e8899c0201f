"""Iterative solvers: projection steps on a canvas, and the joint refinement of object and probe."""
