"""Where a model comes from: what it has learnt from, as its `chorus.json` tells, and under which licence it is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from chorus.checkpoints.model import Model
from chorus.errors import CheckpointError
from chorus.files import present, read_json
from chorus.plain import JsonMap, JsonObject
from chorus.provenance import licence_of, licences_in_words

PROVENANCE = "chorus.json"
TRAINING = "train"  # what a training calls its kind there
Lineage = dict[str, list[str]]  # {column of a manifest: the values that were learnt}


def facts_in(directory: Path | None) -> JsonObject:
    """A directory's `chorus.json`; empty where there is none that can be read, without which a model is as good."""
    path = directory / PROVENANCE if directory else None
    try:
        return read_json(path) if path is not None and present(path) else {}
    except CheckpointError:
        return {}


def license_text(model: Model) -> str | None:
    """The licence of a model, with its adapters' and, of a planned merge, its models' ones."""
    return licences_in_words(model.made_of or _stated(model))


def _stated(model: Model) -> dict[str, str | None]:
    """What the cards of a model and of the adapters on it say; adapters without a card say nothing against it."""
    adapters = dict.fromkeys(path.parent for path in model.adapter_paths.values())
    own = {"": licence_of(model.directory)}
    return {**own, **{str(place): stated for place in adapters if (stated := licence_of(place))}}


def lineage_of(model: Model) -> Lineage:
    """Of a model: of its adapters where it has some, else its own; of a merge, planned or written, its sources'."""
    if model.method or model.trained_on:  # or a part in its whole: of both
        return model.trained_on
    own = facts_in(model.directory)
    adapters = dict.fromkeys(path.parent for path in model.adapter_paths.values())
    if not adapters:
        return lineage_in(own)
    # what the base of an adapter was trained on is where the adapter began; a merge is what it was put on
    below = {} if own.get("kind") == TRAINING else lineage_in(own)
    return joined([below, *(lineage_in(facts_in(place)) for place in adapters)])


def lineage_in(facts: JsonMap) -> Lineage:
    """Of the facts in a `chorus.json`, which may be anybody's: what is not of the form is not told."""
    if facts.get("kind") != TRAINING:
        return _texts(facts.get("trained_on"))
    data = facts.get("data")
    counted = {k: data.get(k) for k in ("domain", "language")} if isinstance(data, Mapping) else {}
    # the counts are of the rows that were learnt, by values
    rows = _texts({k: list(v) for k, v in counted.items() if isinstance(v, Mapping)})
    named = [{"domain": source.get("domain")} for source in _sources(facts)]
    return joined([rows, *map(_texts, wheres_in(facts)), *map(_texts, named)])


def wheres_in(facts: JsonMap) -> list[JsonObject]:
    """The conditions on each training source's rows; on their split not, which says nothing of what they are."""
    every = [source.get("where") for source in _sources(facts)]
    return [
        {str(k): v for k, v in where.items() if k != "split"} if isinstance(where, Mapping) else {} for where in every
    ]


def joined(lineages: Iterable[Lineage]) -> Lineage:
    """All of them, each value once.

    >>> joined([{"domain": ["radio"]}, {"domain": ["phone", "radio"]}])
    {'domain': ['radio', 'phone']}
    """
    found: dict[str, dict[str, None]] = {}
    for one in lineages:
        for column, values in one.items():
            found.setdefault(column, {}).update(dict.fromkeys(values))
    return {column: list(values) for column, values in found.items()}


def _sources(facts: JsonMap) -> Iterator[JsonMap]:
    config = facts.get("config")
    data = config.get("data") if isinstance(config, Mapping) else None
    every = data.get("train") if isinstance(data, Mapping) else None
    return (one for one in (every if isinstance(every, list) else []) if isinstance(one, Mapping))


def _texts(values: object) -> Lineage:
    if not isinstance(values, Mapping):
        return {}
    each = {str(k): v if isinstance(v, list) else [v] for k, v in values.items()}
    kept = {k: [str(one) for one in v if isinstance(one, str | int | float) and one != ""] for k, v in each.items()}
    return {k: v for k, v in kept.items() if v}
