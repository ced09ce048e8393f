"""Sparsity that depends on the input: quantiles of activations, and how sparse each input of a block is to be."""
