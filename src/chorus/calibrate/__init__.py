"""Calibrated merging: the weight of every model in every group of layers, by gradients on labelled rows."""

from chorus.lazy import make_callable

make_callable(__name__, "chorus.calibrate.run", "calibrate")
