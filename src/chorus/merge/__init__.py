"""Recipe -> plan -> engine: one model from many."""
