"""One file a format: what verification reads of it."""
