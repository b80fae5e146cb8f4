"""Numerical kernels: tensors in, tensors and numbers out. No paths, no logging, no configuration."""
