"""One output tensor: what is read, what is computed, in which steps."""
