"""The public verbs, one module each: prune, plan, evaluate, compare, methods."""
