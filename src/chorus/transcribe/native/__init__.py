"""Runtimes' own numbers, each from a process of its own: what verification compares with a model's."""
