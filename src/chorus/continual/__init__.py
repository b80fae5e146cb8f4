"""Continual merging: one more model into a merge made earlier, without the models that went into that."""

from chorus.lazy import make_callable

make_callable(__name__, "chorus.continual.run", "continual")
