"""Recipe -> plan -> engine: one model from many.

The package is also the function: `chorus.merge(recipe, "merged")` calls `chorus.merge.api.merge`, because once
this package is imported Python binds its name in `chorus`, in the place of the function.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any


class _CallablePackage(ModuleType):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        from chorus.merge.api import merge

        return merge(*args, **kwargs)

    @property
    def __signature__(self) -> Any:
        import inspect

        from chorus.merge.api import merge

        return inspect.signature(merge)


sys.modules[__name__].__class__ = _CallablePackage
