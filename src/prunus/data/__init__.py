"""Public-domain text that ships with prunus."""
