"""Calibrated merging: the weight of every model in every group of layers, by gradients on labelled rows."""
