"""Criteria: what is one weight worth? One file a criterion."""
