"""Stages: what is done to a block as a whole before or after its layers are solved. One file a stage."""
