"""Architectures that papers on pruning count their weights on, by name, and how a user's own is built."""
