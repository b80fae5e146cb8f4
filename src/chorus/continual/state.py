"""The merge that is gone on with: where it is, its base, how many models are in it; or a base to begin with."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from chorus.checkpoints.lineage import TRAINING, facts_in
from chorus.checkpoints.model import Model, OpenOptions
from chorus.checkpoints.open import Source, on_its_base, open_model, reference_to
from chorus.checkpoints.reference import Reference, is_hub_id, public_name
from chorus.continual.facts import KEY, BaseFacts, ContinualFacts, read_facts
from chorus.errors import CheckpointError, MisfitError, UsageError, some
from chorus.identity import bytes_hash, file_hash, fingerprint
from chorus.lazy import lazy
from chorus.plain import JsonMap

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")

BEGINNING = 1 << 14  # values of a tensor that tell it from others: a training changes every row
FEW, STRANGE = 256, 0.5  # values that a cosine needs; and a cosine that no training comes down to


@dataclass(frozen=True)
class Merged:
    """What is gone on with. `reference` is None where the base alone is there yet."""

    base: Reference
    base_model: Model
    reference: Reference | None
    model: Model | None
    facts: ContinualFacts

    @property
    def adapter(self) -> bool:
        return self.reference is None or self.reference.adapter is not None

    @property
    def identity(self) -> str:
        return "" if self.model is None else identity_of(self.model)


@dataclass(frozen=True)
class Added:
    """The model that is added, under the name by which tables and test sets know it."""

    name: str
    reference: Reference
    model: Model
    warnings: tuple[str, ...] = ()

    @property
    def adapter(self) -> bool:
        return self.reference.adapter is not None


def read_state(source: Source, base: Source | None, count: int | None, options: OpenOptions) -> Merged:
    """What is to be gone on with. `base` and `count` say what the state does not say itself.

    Raises `UsageError` and `MisfitError` with what to say, `CheckpointError` for what cannot be read.
    """
    if count is not None and count < 1:
        raise UsageError(
            f"count {count}: a merge is of 1 model or more", "begin with the base alone: it needs no count"
        )
    given = reference_to(source)
    # what is said goes before what an adapter says of itself: a base may have been moved
    stated = None if base is None else reference_to(base)
    if stated is not None and (stated.adapter is not None or _same_place(given, stated)):
        if stated.adapter is not None:
            raise UsageError(f"--base {stated}: an adapter on a base is no base", "name the model alone")
        return _begun(stated, options)
    on = on_base(source, stated, options)
    if on.adapter is None:
        model = open_model(on, options)
        # a recipe has no directory of its own, and says all that its merge would
        facts, where = {"recipe": model.recipe} if model.method else facts_in(model.directory), model.directory
        if stated is None:
            stated = _base_of_model(on, facts, count)
            if stated is None:
                return _begun(on, options, model)
    else:
        stated, model = on.without_adapter, _opened_on(on, options, explicit=base is not None)
        where = next((path.parent for path in reversed(model.adapter_paths.values())), None)
        facts = facts_in(where)
    found = _facts_of(on, facts, where or Path(), count)
    base_model = open_model(stated, options)
    known = BaseFacts(name=stated.name, identity=base_identity(base_model))
    # shapes alone would let any sister of the base pass, and the merge would be of noise
    if found.base.identity and found.base.identity != known.identity:
        raise MisfitError(
            f"{on.name} was made on {found.base.name}, and {known.name} holds other weights",
            f"name the base that it was made on: --base {found.base.name}",
        )
    # what is told of the models in it would be told of other weights
    if found.result and found.result != content_of(model):
        raise MisfitError(
            f"{on.name}: its weights are not those that were written",
            f"take the state as it was written; or, without {KEY} in its chorus.json, say what these are: --count N",
        )
    return Merged(stated, base_model, on, model, found.model_copy(update={"base": known}))


def on_base(source: Source, base: Reference | None, options: OpenOptions) -> Reference:
    """An adapter that is named alone, on `base`, else on the one that it names; everything else as it is."""
    given = reference_to(source)
    if given.adapter is not None:
        if base is not None and not _same_place(given.without_adapter, base):
            raise UsageError(
                f"{given}: stands on {given.without_adapter}, not on {base}", "name the adapter alone, or the one base"
            )
        return given
    try:
        found = on_its_base(source, options)
    except CheckpointError:  # it names none: the one that is given will do
        if base is None:
            raise
        return replace(base, adapter=given)
    if found is source:
        return given
    return replace(base or reference_to(found), adapter=given)


def read_new(source: Source, name: str, begun: Merged, options: OpenOptions, *, explicit: bool) -> Added:
    """The model that is added; `explicit`: the base was named, and not only found in what the state says."""
    reference = on_base(source, begun.base, options)
    model = open_model(reference, options)
    own = (reference.adapter or reference).name
    if reference.adapter is None and base_identity(model) == begun.facts.base.identity:
        raise UsageError(f"{own} is the base itself: it adds nothing", "name a fine-tune or an adapter of it")
    if reference.adapter is None:
        _refuse_stranger(own, model, begun)
    warnings = tuple(_shared(own, model, begun))
    added = Added(name or own.removesuffix("/").rpartition("/")[2], reference, model, warnings)
    if added.name in begun.facts.names:
        raise UsageError(f'a model called "{added.name}" is in the merge already', "give this one another: NAME=NEW")
    # by content: a copy under another name would count twice in every mean
    mine = identity_of(model)
    for number, stage in enumerate(begun.facts.stages, begun.facts.earlier + 1):
        if stage.identity == mine:
            raise UsageError(
                f"{own} is in the merge already, as model {number} ({stage.model})", "name one that is new"
            )
    if begun.model is not None and mine == begun.identity:
        raise UsageError(f"{own} is the merge itself", "name the model that is to be added")
    if not explicit and begun.adapter and added.adapter:
        _refuse_other_base(begun, added)
    return added


def _shared(own: str, model: Model, begun: Merged) -> list[str]:
    """What is to be said of a merge of which a model is in this one already."""
    where = next((path.parent for path in reversed(model.adapter_paths.values())), model.directory)
    told = {} if model.method else facts_in(where)
    if KEY not in told:
        return []
    inside = {stage.identity for stage in read_facts(told[KEY], where or Path()).stages}
    both = [stage.model for stage in begun.facts.stages if stage.identity in inside]
    return [f"{own} is a merge, and counts as one model; {some(both)} stands in both, and counts twice"] if both else []


def _refuse_stranger(own: str, model: Model, begun: Merged) -> None:
    """A model of the base's shapes that was not tuned from it: what it differs by is no training, but another model."""
    if model.checkpoint.keys() != begun.base_model.checkpoint.keys():
        return  # which the plan refuses, and says which tensors
    alike = median_cosine(model, begun.base_model)
    if alike < STRANGE:
        raise MisfitError(
            f"{own} was not tuned from {begun.base.name}: the cosine of their matrices is {alike:.2f}",
            f"name a fine-tune of {begun.base.name}, or begin with the base that {own} was tuned from",
        )


def median_cosine(one: Model, other: Model) -> float:
    """How alike two models' matrices are, by the beginning of each: near 1 for a fine-tune, near 0 for strangers."""
    found = []
    for name, tensor in one.checkpoint.items():
        count = min(BEGINNING, math.prod(tensor.shape))
        # norms are near one in every model, and too short to tell
        if len(tensor.shape) < 2 or tensor.shape != other.checkpoint[name].shape or count < FEW:
            continue
        a, b = (model.checkpoint[name].flat(0, count).double() for model in (one, other))
        size = float(a.norm() * b.norm())
        found.append(float(a @ b) / size if size else 1.0)
    return sorted(found)[len(found) // 2] if found else 1.0


def _refuse_other_base(begun: Merged, added: Added) -> None:
    """Two adapters that name different bases: shapes alone would not tell."""
    assert begun.model is not None
    ours, theirs = (str(m.adapter_config.get("base_model_name_or_path") or "") for m in (begun.model, added.model))
    # by the last part: the same base lies under another folder on every machine
    if ours and theirs and _last(ours) != _last(theirs):
        raise MisfitError(
            f"{added.name} is an adapter on {theirs}, and the merge stands on {ours}",
            f"name an adapter on that base, or say that they are one: --base {ours}",
        )


def base_identity(model: Model) -> str:
    """A model by names, types, shapes and first values of its tensors: no other shards or side files change it."""
    told = []
    for name in sorted(model.checkpoint):
        tensor = model.checkpoint[name]
        # not the whole: of a base of gigabytes a merge of adapters reads nothing at all
        values = tensor.flat(0, min(BEGINNING, math.prod(tensor.shape))).contiguous()
        told.append([name, tensor.dtype, tensor.shape, bytes_hash(values.view(torch.uint8).numpy())])
    return fingerprint(tensors=told)


def identity_of(model: Model) -> str:
    """A model by content: of adapters by what their own files hold, without reading the base."""
    if model.adapter_paths:
        return fingerprint(adapter=[file_hash(path) for path in model.adapter_paths.values() if path.suffix != ".json"])
    return model.fingerprint()


def content_of(model: Model) -> str:
    """What a state's weights are, however they are stored; of adapters with what scales them."""
    if not model.adapter_paths:
        return base_identity(model)
    # where the base lies is told there too, and may change
    config = {key: value for key, value in model.adapter_config.items() if key != "base_model_name_or_path"}
    return fingerprint(adapter=identity_of(model), config=config)


def _begun(base: Reference, options: OpenOptions, model: Model | None = None) -> Merged:
    model = model or open_model(base, options)
    facts = ContinualFacts(base=BaseFacts(name=base.name, identity=base_identity(model)))
    return Merged(base, model, None, None, facts)


def _base_of_model(given: Reference, facts: JsonMap, count: int | None) -> Reference | None:
    """The base of a merged model that was named without one; None where the model is a base itself."""
    if KEY in facts:
        told = facts[KEY].get("base") if isinstance(facts[KEY], Mapping) else None
        # a local base's name is no path: provenance tells nobody's folders
        name = str(told.get("name", "")) if isinstance(told, Mapping) else ""
        if is_hub_id(name):
            return reference_to(name)
        raise UsageError(f"{given.name} was made on {name or 'a base'}: where is that?", "say --base DIR")
    # either may be meant, and the two results have nothing in common
    if "recipe" in facts:
        raise UsageError(
            f"{given.name} is a merge, and does not say where its base is",
            f"go on with it: --base BASE; or begin with it as the base: --base {given}",
        )
    if count is not None:
        raise UsageError(f"--count {count}: {given.name} is taken for the base", "say what its base is: --base DIR")
    return None


def _facts_of(given: Reference, facts: JsonMap, where: Path, count: int | None) -> ContinualFacts:
    """How many models are in a state, by what it says of itself, else by `count`."""
    nobody = BaseFacts(name="", identity="")
    if KEY in facts:
        if count is not None:
            raise UsageError(f"--count {count}: {given.name} says itself what is in it", "leave --count out")
        return read_facts(facts[KEY], where)
    # what `chorus merge` has written knows its recipe, and by that how many models it is of
    names = _merged_in(facts)
    if count is None and facts.get("kind") == TRAINING:
        names, count = [public_name(str((given.adapter or given).path))], 1
    count = len(names) if count is None else count
    if not count:
        raise MisfitError(
            f"{given.name} does not say how many models are in it (no {KEY} and no recipe in a chorus.json)",
            "say it: --count N (of a single adapter or fine-tune 1)",
        )
    return ContinualFacts(base=nobody, earlier=count, of=names if len(names) == count else [])


def _merged_in(facts: JsonMap) -> list[str]:
    """The models of a merge that `chorus merge` has written, without its base, by name."""
    recipe = facts.get("recipe")
    models = recipe.get("models") if isinstance(recipe, Mapping) else None
    base = recipe.get("base_model") if isinstance(recipe, Mapping) else None
    found = []
    for entry in models if isinstance(models, list) else []:
        model, adapter = (entry.get("model"), entry.get("lora")) if isinstance(entry, Mapping) else (None, None)
        # means list the base among the models, and it is none of them
        if adapter or (model and _path(model) != _path(base)):
            found.append(_last(_path(adapter or model).rpartition("+")[2]))
    return found if len(set(found)) == len(found) else [f"{name} {i}" for i, name in enumerate(found, 1)]


def _path(named: object) -> str:
    """What a recipe names as a path or as a map with one."""
    return str(named.get("path", "") if isinstance(named, Mapping) else named or "").rstrip("/")


def _opened_on(reference: Reference, options: OpenOptions, *, explicit: bool) -> Model:
    try:
        return open_model(reference, options)
    except CheckpointError as error:
        if explicit:
            raise
        raise CheckpointError(
            f"{error.message} (the adapter says that it stands on {reference.without_adapter})",
            "say where its base is: --base DIR",
        ) from None


def _same_place(one: Reference, other: Reference) -> bool:
    if one == other:
        return True
    local = [Path(r.path) for r in (one, other) if r.given is None and r.adapter is None and Path(r.path).exists()]
    return len(local) == 2 and local[0].samefile(local[1])


def _last(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2]
