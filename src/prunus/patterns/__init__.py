"""Patterns: where may zeros lie? One file a pattern."""
