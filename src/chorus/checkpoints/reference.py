"""How a recipe names a model: `path`, `path@revision`, `path+adapter`, `path@rev+adapter@rev`, or the map form."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from chorus.plain import JsonObject

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

    def __str__(self) -> str:
        text = self.path + (f"@{self.revision}" if self.revision else "")
        return f"{text}+{self.adapter}" if self.adapter else text

    @property
    def name(self) -> str:
        """What cards and tables call it: a hub id as it is, a path by its last part; never an absolute path."""
        # a card that names somebody's own folders tells who made it, and nobody else can use it
        own = self.path if self.given else public_name(self.path)
        return f"{own}+{self.adapter.name}" if self.adapter else own

    @property
    def without_adapter(self) -> Reference:
        return replace(self, adapter=None)


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
