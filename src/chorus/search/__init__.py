"""Many merges of the same models, each heard on dev: settings, grids, trials, and which is taken."""
