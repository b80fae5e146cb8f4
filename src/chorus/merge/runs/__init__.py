"""Carrying a plan out: into files, into memory, into an adapter."""
