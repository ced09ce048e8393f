"""Measuring: quality (perplexity, KL) and cost (bytes, memory, tokens per second)."""
