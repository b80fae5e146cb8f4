"""One small registry: named things, some from this package, some from entry points of others."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint, entry_points
from typing import Generic, TypeVar

from chorus.errors import UsageError, nearest

T = TypeVar("T")


class Registry(Generic[T]):
    """Things by name. `load` imports this package's own; others' come from the entry-point group `group`."""

    def __init__(self, kind: str, group: str, load: Callable[[], None]) -> None:
        self.kind, self.group, self._load = kind, group, load
        self._items: dict[str, T] = {}
        self._loaded = False
        self.broken: dict[str, str] = {}  # package -> why what it brings is left out

    def add(self, name: str, item: T) -> None:
        if name in self._items:
            raise UsageError(f'{self.kind} "{name}" is registered twice', "give one of them another name")
        self._items[name] = item

    def _ensure(self) -> None:
        if not self._loaded:
            self._loaded = True  # first: what is imported below may ask the registry
            self._load()
            # sorted, so that what is installed when changes no list and no choice
            for point in sorted(entry_points(group=self.group), key=lambda p: p.name):
                self._import(point)

    def _import(self, point: EntryPoint) -> None:
        """Import a package's module, which registers what it defines; one that fails is named and left out."""
        try:
            point.load()
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a stranger's module may even call sys.exit
            package = point.dist.name if point.dist is not None else point.value
            reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            self.broken[package] = reason
            told = f"the package {package} ({self.group}: {point.name}) is left out, as it cannot be used: {reason}"
            warnings.warn(told, stacklevel=2)

    def get(self, name: str) -> T:
        """The thing of this name; `UsageError` names the nearest."""
        self._ensure()
        if name not in self._items:
            left_out = "; ".join(f"{package} is left out ({reason})" for package, reason in self.broken.items())
            raise UsageError(f'unknown {self.kind} "{name}"{nearest(name, self._items)}', left_out)
        return self._items[name]

    def __contains__(self, name: str) -> bool:
        self._ensure()
        return name in self._items

    def names(self) -> list[str]:
        self._ensure()
        return sorted(self._items)

    def latest_first(self) -> list[T]:
        """In the reverse order of registration: what other packages add comes before this package's own."""
        self._ensure()
        return list(self._items.values())[::-1]

    def __iter__(self) -> Iterator[T]:
        return iter([self._items[name] for name in self.names()])

    def __len__(self) -> int:
        return len(self.names())
