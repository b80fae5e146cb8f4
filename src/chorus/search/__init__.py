"""Many merges of the same models, each evaluated on dev: settings, grids, trials, and which is taken."""
