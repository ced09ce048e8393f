"""Coders: how symbols become bytes. One file a coder."""
