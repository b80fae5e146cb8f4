"""Loads what most merges load at their first tensor, compiled kernels and all, into the process that forks."""

from __future__ import annotations

from importlib import import_module

import numpy as np

from chorus.linalg import native

MODULES = (
    "chorus.cli.merge", "chorus.cli.plan", "chorus.merge.api", "chorus.merge.planning.planner",
    "chorus.merge.runs.engine", "chorus.merge.methods.linear", "chorus.models.registry", "chorus.models.loading",
)  # fmt: skip
for name in MODULES:
    import_module(name)
native.widen(np.zeros(4, np.float32), "float32", np.zeros(4, np.float32))
