"""What a fine-tune learnt, taken out of it: a task vector, or an adapter that holds most of it."""
