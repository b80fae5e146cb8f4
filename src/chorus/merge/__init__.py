"""Recipe -> plan -> engine: one model from many. `chorus.merge(recipe, "merged")` calls `chorus.merge.api.merge`."""

from chorus.lazy import make_callable

make_callable(__name__, "chorus.merge.api", "merge")
