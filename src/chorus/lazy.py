"""Modules that are imported when first used, so that `chorus --help` starts without torch."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any


class _LazyModule(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # introspection must not trigger the import
            raise AttributeError(name)
        module = importlib.import_module(self.__name__)
        self.__dict__.update(module.__dict__)  # later look-ups do not come here
        return getattr(module, name)


def lazy(name: str) -> Any:
    """Return a stand-in for the module `name` that imports it at the first attribute access.

    >>> math = lazy("math")
    >>> math.floor(2.5)
    2
    """
    return _LazyModule(name)
