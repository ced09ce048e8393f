"""Structured pruning: what of a model shrinks together, what it is worth, and surgery on tensors and config."""
