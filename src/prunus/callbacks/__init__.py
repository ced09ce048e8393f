"""Sparsifier in other people's training loops; each imports its library, which has to be installed."""
