"""README.md of an exported directory: what it was made from, and what that one's own card says."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import yaml

from chorus.checkpoints.dtypes import itemsize
from chorus.checkpoints.lineage import license_text
from chorus.checkpoints.model import Model
from chorus.checkpoints.shards import Stored
from chorus.models.registry import kind_of
from chorus.plain import JsonMap, JsonObject
from chorus.provenance import Card, card_body, card_metadata

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

Relation = Literal["merge", "adapter", "finetune", "quantized"]
RELATIONS: tuple[Relation, ...] = ("merge", "adapter", "finetune", "quantized")
LOCAL_PICTURE = re.compile(r"!\[[^\]]*\]\((?!https?:)[^)]*\)")  # of a file that does not go with the model
OURS = ("base_model", "base_model_relation", "tags", "library_name", "license", "model-index")


def licences_of(model: Model) -> dict[str, str | None]:
    """The licence of each model that it is made of, by name."""
    return model.made_of or {model.label: license_text(model)}


def card_of(model: Model, stored: Sequence[Stored], settings: JsonMap, measured: Sequence[EvalResult]) -> str:
    """The card of a model as it is stored. A model that is the same but for its form keeps what its own card says."""
    front = card_metadata(model.directory) if not model.method else {}
    licences, kind = licences_of(model), kind_of(model.config)
    # of several licences none is put into the front matter: which holds is not for a program to say
    stated = {licence for licence in licences.values() if licence}
    whole = len(stated) == 1 and None not in licences.values()
    bases, relation = _descent(model, front, narrower=_narrower(model, stored))
    tag = front.get("pipeline_tag") or (kind.pipeline_tag if kind is not None else None)
    language = front.get("language") or []
    body = LOCAL_PICTURE.sub("", card_body(model.directory)) if not model.method else ""
    tags = [str(one) for one in front["tags"]] if isinstance(front.get("tags"), list) else []
    return Card(
        title=model.label,
        intro=f"{model.label} {_types(stored)}",
        base_models=bases,
        relation=relation,
        tags=list(dict.fromkeys([*tags, "chorus"])),
        columns=("model", "licence"),
        rows=[(name, licence or "not stated") for name, licence in licences.items()],
        settings=("Export", yaml.safe_dump(dict(settings), sort_keys=False)),
        kept="the hashes of what went in, the versions, and the checks that held",
        licence=stated.pop() if whole and not any(" + " in one for one in stated) else None,
        languages=[str(one) for one in (language if isinstance(language, list) else [language])],
        pipeline_tag=str(tag) if tag else None,
        more={k: v for k, v in front.items() if k not in OURS} | _index(model, measured),
        below=f"## The card of {model.label}\n\n{_one_deeper(body)}" if body else "",
    ).text()


def _descent(model: Model, front: JsonMap, *, narrower: bool) -> tuple[list[str], Relation]:
    """(the hub's models that it is made from, how): of a merge its parts, of a hub's model that, else as its card says.

    Of adapters put on a base, both are named, as a merge of them does.
    """
    if model.method or len(model.hub_ids) > 1:
        return list(model.hub_ids), "merge"
    if model.hub_ids:
        return list(model.hub_ids), "finetune" if model.adapter_paths or not narrower else "quantized"
    named = front.get("base_model")
    found = [str(one) for one in (named if isinstance(named, list) else [named]) if one]
    written = front.get("base_model_relation")
    alone: Relation = "merge" if len(found) > 1 else "finetune"
    return found, next((one for one in RELATIONS if one == written), alone)


def _narrower(model: Model, stored: Sequence[Stored]) -> bool:
    return any(itemsize(dtype) < itemsize(model.checkpoint[name].stored_dtype) for name, dtype, _ in stored)


def _types(stored: Sequence[Stored]) -> str:
    kinds = sorted({dtype for _, dtype, _ in stored})
    return f"in {' and '.join(kinds)}"


def _index(model: Model, measured: Sequence[EvalResult]) -> JsonObject:
    """The hub's key for results: those that are given. The source's own are of other bytes."""
    if not measured:
        return {}
    from huggingface_hub.repocard_data import eval_results_to_model_index

    return {"model-index": eval_results_to_model_index(model.label, list(measured))}


def _one_deeper(body: str) -> str:
    """A card's headings a level lower, below a heading of ours; not those in code."""
    parts = re.split(r"(^```.*?^```)", body, flags=re.DOTALL | re.MULTILINE)
    return "".join(re.sub(r"^#", "##", p, flags=re.MULTILINE) if i % 2 == 0 else p for i, p in enumerate(parts))
