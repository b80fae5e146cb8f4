"""One file in, the whole line run and resumed, table and report out."""

from chorus.lazy import make_callable

make_callable(__name__, "chorus.experiment.run", "experiment")
