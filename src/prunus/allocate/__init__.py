"""Allocators: how sparse is each layer? One file an allocator."""
