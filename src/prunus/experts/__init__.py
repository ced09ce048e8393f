"""Which experts stay? One file a score."""
