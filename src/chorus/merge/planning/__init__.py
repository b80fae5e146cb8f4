"""From a recipe and the models' headers to a plan; no weight is read."""
