"""The `gguf` package, imported where it is needed: it comes with the extra `export`."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any, TypeAlias

from chorus.errors import MissingExtraError

# neither has types that a checker could go by
Package: TypeAlias = Any
Keys: TypeAlias = Any  # its GGUFWriter, of which what is described is the keys


def package() -> Package:
    """The package; `MissingExtraError` where it is not installed."""
    if find_spec("gguf") is None:
        raise MissingExtraError("export", "a GGUF file")
    import gguf

    return gguf
