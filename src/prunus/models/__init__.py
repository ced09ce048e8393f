"""What is known of a model: its blocks in order, its Sites, its names on disk. All of transformers stays in here."""
