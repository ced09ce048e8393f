"""Solvers: what becomes of the survivors? One file a solver."""
