"""What other programs read: one file a format, each loaded again by its own reader and compared."""
