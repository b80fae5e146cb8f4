"""One home for a kind of model: one file a kind, with all that is its own, and what the kinds share."""
