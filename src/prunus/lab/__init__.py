"""Networks trained from a recipe: the loop, what is learnt, how it is judged, and what is kept of it."""
