"""How a recipe names a model: `path`, `path@revision`, `path+adapter`, `path@rev+adapter@rev`, or the map form."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from chorus.plain import JsonObject

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[\w.-]{1,96}", re.ASCII)
MAX_CHARACTERS = 4096  # of a path on Linux; longer ones are an error of the system's


@dataclass(frozen=True)
class Given:
    """A model or plan itself in the place of a name; equal to nothing but itself."""

    source: Any

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Given) and self.source is other.source

    def __hash__(self) -> int:
        return id(self.source)


@dataclass(frozen=True)
class Reference:
    """A model on disk or on the hub, perhaps with an adapter on it.

    `path` is a directory, a file, or a hub id (`org/name`); of a model that is `given` itself, what messages call it.
    """

    path: str
    revision: str | None = None
    adapter: Reference | None = None
    override_architecture: str | None = None
    given: Given | None = None
    label: str = field(default="", compare=False)  # what tells it from others beside it (see `labelled`)

    def __str__(self) -> str:
        text = self.path + (f"@{self.revision}" if self.revision else "")
        return f"{text}+{self.adapter}" if self.adapter else text

    @property
    def name(self) -> str:
        """What cards and tables call it: a hub id as it is, a path by its last parts; never an absolute path."""
        # a card that names somebody's own folders tells who made it, and nobody else can use it
        own = self.label or (self.path if self.given else public_name(self.path))
        return f"{own}+{self.adapter.name}" if self.adapter else own

    @property
    def without_adapter(self) -> Reference:
        return replace(self, adapter=None)

    @property
    def hub_ids(self) -> list[str]:
        """Where on the hub it and its adapter are, as far as they are there."""
        above = self.adapter.hub_ids if self.adapter else []
        return [self.path, *above] if not self.given and is_hub_id(self.path) else above

    @property
    def as_written(self) -> str:
        """How an adapter's config calls it, so that it is found again from the same folder; no absolute path."""
        return self.name if self.given or Path(self.path).is_absolute() else self.path


def is_hub_id(path: str) -> bool:
    """Whether a name can only be a model on the hub."""
    return HUB_ID.fullmatch(path) is not None and not looks_local(path)


def labelled(references: Sequence[Reference]) -> list[Reference]:
    """The same references under names of which no two are alike: paths by as many of their last parts as it takes.

    >>> [r.name for r in labelled([Reference("/runs/en/checkpoint-9"), Reference("/runs/pt/checkpoint-9")])]
    ['en/checkpoint-9', 'pt/checkpoint-9']
    """
    parts = list(dict.fromkeys(part for one in references for part in _parts(one)))
    names = dict(zip(parts, _told_apart(parts), strict=True))
    return [_named(one, names) for one in references]


def _parts(reference: Reference) -> list[Reference]:
    """A reference's model and its adapter, each by itself."""
    own = replace(reference, adapter=None, override_architecture=None)
    return [own, *(_parts(reference.adapter) if reference.adapter else [])]


def _named(reference: Reference, names: dict[Reference, str]) -> Reference:
    adapter = _named(reference.adapter, names) if reference.adapter else None
    return replace(reference, label=names[_parts(reference)[0]], adapter=adapter)


def _told_apart(parts: Sequence[Reference]) -> list[str]:
    """A name for each: the last part of its path, more where others end alike, at last a number."""
    # a place that is named twice (by two paths, with two adapters on it) cannot be told apart by its path
    places = list({_place(one): one for one in reversed(parts)}.values())
    names, shown = [_tail(one, 1) for one in places], [1] * len(places)
    while True:
        alike = {name for name, count in Counter(names).items() if count > 1}
        shown = [n + (name in alike) for n, name in zip(shown, names, strict=True)]
        longer = [_tail(one, n) for one, n in zip(places, shown, strict=True)]
        if longer == names:
            break
        names = longer
    by_place = dict(zip(map(_place, places), names, strict=True))
    seen: Counter[str] = Counter()
    found = []
    for one in parts:
        name = by_place[_place(one)]
        seen[name] += 1
        found.append(f"{name} ({seen[name]})" if seen[name] > 1 else name)
    return found


def _place(reference: Reference) -> object:
    local = not reference.given and looks_local(reference.path)
    return (Path(reference.path).resolve(), reference.revision) if local else replace(reference, adapter=None)


def _tail(reference: Reference, count: int) -> str:
    """The last parts of a local path, without its root; a hub id, and what was given, whole; then the revision."""
    if reference.given or not looks_local(reference.path):
        return str(reference) if count > 1 else reference.name
    path = Path(reference.path)
    # `.` and `..` name nothing
    names = [n for n in (path if path.name not in ("", "..") else path.resolve()).parts if n not in (path.anchor, "..")]
    if count > len(names):
        names = [n for n in path.resolve().parts if n != path.resolve().anchor]
    return "/".join(names[-count:]) or public_name(reference.path)


def public_name(path: str) -> str:
    """A hub id as it is, a local path by its last part."""
    if looks_local(path):
        return Path(path).name or Path(path).resolve().name  # `.` and `/` have no last part
    return path


def looks_local(path: str) -> bool:
    """Whether this is a place on disk rather than a hub id: it exists, or no hub id could look like it."""
    # a hub id has one slash at most, and a folder of its name in the working directory goes first
    return Path(path).exists() or path.startswith((".", "/", "~")) or path.count("/") > 1 or "\\" in path


def parse_reference(value: object, lora: object = None) -> Reference:
    """Read a recipe's model reference; `lora` is the key beside `model:`. `ValueError` says what is wrong."""
    # known by its label alone: a plan's class lies rooms above this one and cannot be imported here
    reference = _given(value) or (_parse_map(value) if isinstance(value, dict) else _parse_text(value))
    if lora is not None:
        if reference.adapter is not None:
            raise ValueError(f"{reference}: an adapter is named twice, in the model and under lora")
        adapter = _parse_map(lora) if isinstance(lora, dict) else _parse_text(lora)
        reference = replace(reference, adapter=adapter)
    return reference


def _given(value: object) -> Reference | None:
    """A model, or a plan of one, as a reference to itself."""
    if isinstance(value, Reference):
        return value
    label = getattr(value, "label", None)
    return Reference(label, given=Given(value)) if isinstance(label, str) else None


def _parse_text(value: object) -> Reference:
    value = str(value) if isinstance(value, Path) else value
    if isinstance(value, str) and len(value) > MAX_CHARACTERS:
        raise ValueError(f"{value[:40]}...: {len(value)} characters are no name of a model")
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"a model is named by a path, a hub id, or a map with the key model; got {value!r}")
    if Path(value).exists():  # a real path may hold + and @
        return Reference(value)
    # neither sign can stand in a hub id; whoever has one in a path that is not there yet writes the map form
    parts = value.split("+")
    if len(parts) > 2:
        raise ValueError(f'{value}: more than one "+"; write the map form {{model: ..., lora: ...}}')
    base, *adapters = (_parse_revision(part, value) for part in parts)
    return Reference(base.path, base.revision, adapters[0] if adapters else None)


def _parse_revision(part: str, whole: str) -> Reference:
    path, *revision = part.split("@")
    if len(revision) > 1:
        raise ValueError(f'{whole}: more than one "@"; write the map form {{model: {{path: ..., revision: ...}}}}')
    if not path or (revision and not revision[0]):
        raise ValueError(f"{whole}: an empty name or revision")
    return Reference(path, revision[0] if revision else None)


def _parse_map(value: JsonObject) -> Reference:
    keys = {"model", "lora", "override_architecture"}
    if "path" in value and set(value) <= {"path", "revision"}:
        revision = value.get("revision")
        return Reference(str(value["path"]), None if revision is None else str(revision))
    unknown = set(value) - keys
    if unknown or "model" not in value:
        raise ValueError(f"a model's map has the keys model, lora, override_architecture; got {sorted(value)}")
    reference = parse_reference(value["model"], value.get("lora"))
    return replace(reference, override_architecture=value.get("override_architecture"))
