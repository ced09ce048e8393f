"""Training what was pruned: masks held, teachers, low-rank updates, on Hugging Face's Trainer."""
