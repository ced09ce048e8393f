"""When weights go, and come back, while a model is trained; one file a schedule."""
