"""Checkpoints on disk: a lazy safetensors reader, a writer that mirrors its source, the journal of a run."""
