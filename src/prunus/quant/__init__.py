"""Grids: which values survivors may take. One file a grid."""
