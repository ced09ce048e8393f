"""Targets: which outputs solvers aim at."""
