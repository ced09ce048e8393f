"""The one loop: load a block, observe it, solve, write, advance. One block in memory, whatever the model's size."""
