"""Storage formats: how pruned weights are written so that zeros cost nothing. One file a format."""
