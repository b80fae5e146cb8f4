"""One file a kind of model: how its examples, batches and transcripts are made."""
