"""What networks are trained and judged on: images with labels, and token windows, one file a kind of source."""
