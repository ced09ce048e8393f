"""Stages: what is done to a block as a whole once its layers are solved. One file a stage."""
