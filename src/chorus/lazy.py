"""Modules that are imported when first used, so that `chorus --help` starts without torch."""

from __future__ import annotations

import importlib
import inspect
import sys
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


def make_callable(package: str, home: str, function: str) -> None:
    """Let an imported package be called as the function of the same name: `chorus.merge(...)`.

    Once a package is imported, Python binds its name in its parent, in the place of the function.
    """

    class CallablePackage(ModuleType):
        def __call__(self, *args: object, **kwargs: object) -> object:
            return getattr(importlib.import_module(home), function)(*args, **kwargs)

        @property
        def __signature__(self) -> inspect.Signature:
            return inspect.signature(getattr(importlib.import_module(home), function))

    sys.modules[package].__class__ = CallablePackage  # Python allows it for modules, and for little else
