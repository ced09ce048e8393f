"""Which units stay? One file an importance: heads, neurons and channels are cut by it."""
