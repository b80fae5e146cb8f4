"""One file a kind of model: how its examples, batches and hypotheses are made."""
