"""How good hypotheses are: error rates with intervals, tests between systems, comparison, gates."""

from chorus.lazy import make_callable

make_callable(__name__, "chorus.evaluate.run", "evaluate")
