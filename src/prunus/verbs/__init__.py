"""The public verbs, one module each: prune, plan, export, evaluate, compare, methods."""
