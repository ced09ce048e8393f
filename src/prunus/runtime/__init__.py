"""Running packed models: kernels that read weights as they are packed, and the dense way beside them."""
