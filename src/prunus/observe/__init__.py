"""Observing: text in, token windows, and the Stats of what every Site's inputs looked like."""
