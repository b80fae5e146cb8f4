"""Everything of a merged model but its weights: config, index, side files, card and `chorus.json`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import yaml

from chorus._version import __version__
from chorus.checkpoints.model import INDEX, Model
from chorus.checkpoints.public_recipe import public_document
from chorus.checkpoints.shards import index_of
from chorus.checkpoints.sidecar import copy_side_files, write_json
from chorus.checkpoints.writer import write_text
from chorus.identity import bytes_hash, file_hash, file_sha256
from chorus.merge.plan import Plan, Variant
from chorus.merge.planning.published import plain_parameters
from chorus.merge.runs.journal import FinishedTensor
from chorus.models.registry import kind_of
from chorus.provenance import card_metadata, licence_warnings, model_card, versions

Done = Mapping[tuple[str, str], FinishedTensor]
# bfloat16 reaches it at deltas of 3e-4 on weights of 0.02.
SHOW_LOSS = 0.10  # share of the delta lost to the cast above which a merge warns


def write_side_files(plan: Plan, directory: Path, done: Done) -> list[str]:
    """Write what belongs beside the weights into every variant's directory; returns warnings."""
    warnings: list[str] = []
    identities = input_identities(plan, done)
    for variant in plan.variants:
        out = directory / variant.name
        write_json(out / "config.json", variant.config)
        if variant.generation is not None:
            write_json(out / "generation_config.json", variant.generation)
        if len(variant.shards) > 1:
            write_json(out / INDEX, index_of(variant.shards))
        warnings += copy_side_files(plan.beside.carried, out)
        losses = cast_losses(variant, done)
        shown = _loss_lines(losses)
        warnings += shown
        write_json(out / "chorus.json", provenance_of(plan, variant, identities, losses))
        if plan.options.model_card:
            write_text(out / "README.md", _card(plan, variant, shown))
    return list(dict.fromkeys(warnings + licence_warnings(plan.licences)))


def input_identities(plan: Plan, done: Done, *, read_files: bool = True) -> list[dict[str, object]]:
    """For each model its name, revision, and for each file a hash: the hub's where known, else of the content.

    With `read_files` False large files that the merge did not read are told by their size alone.

    `xxh3_tensors` is the XXH3-128 of the lines "name digest" of the file's tensors that were read, each digest the
    XXH3-128 of the tensor's bytes as stored; `xxh3_file` is that of a whole (small or pickled) file.
    """
    digests: dict[str, str] = {}
    for entry in done.values():
        digests.update(entry["inputs"])
    identities = []
    names = [*(r.name for r in plan.references), *(model.label for model in plan.auxiliary)]
    for i, (model, name) in enumerate(zip(plan.sources, names, strict=True)):
        identity: dict[str, object] = {"model": name}
        if model.revision:
            identity["revision"] = model.revision
        identity["files"] = {file: _file_identity(plan, i, file, digests, read_files) for file in sorted(model.paths)}
        if model.identify is not None:  # a planned merge has no files
            identity["fingerprint"] = model.identify()
            identity |= {"recipe": model.recipe, "models": list(model.made_of)}
        if model.adapter_paths:
            identity["adapter_files"] = {n: _whole_file(plan, p) for n, p in sorted(model.adapter_paths.items())}
        identities.append(identity)
    return identities


def _file_identity(plan: Plan, index: int, name: str, digests: dict[str, str], read_files: bool) -> dict[str, object]:
    model = plan.sources[index]
    identity: dict[str, object] = {}
    # the hub has hashed the whole file: it is not read again
    if model.hub_hashes.get(name):
        identity["hub_hash"] = model.hub_hashes[name]
    header = model.files.get(name)
    read = [n for n in (header.entries if header else {}) if digests.get(f"{index}:{n}", EMPTY) != EMPTY]
    if read:
        # by name: in which order the threads read must not show
        text = "".join(f"{n} {digests[f'{index}:{n}']}\n" for n in sorted(read))
        identity["xxh3_tensors"] = bytes_hash(text.encode())
        assert header is not None
        identity["tensors"] = f"{len(read)} of {len(header.entries)}"
    elif not identity and not read_files:
        identity["bytes"] = model.paths[name].stat().st_size
    elif not identity:
        identity["xxh3_file"] = file_hash(model.paths[name])
    if plan.options.sha256:
        identity["sha256"] = file_sha256(model.paths[name])
    return identity


EMPTY = "99aa06d3014798d86001c324468d497f"  # XXH3-128 of nothing: a tensor that is computed, not stored


def _whole_file(plan: Plan, path: Path) -> dict[str, str]:
    identity = {"xxh3_file": file_hash(path)}
    if plan.options.sha256:
        identity["sha256"] = file_sha256(path)
    return identity


def cast_losses(variant: Variant, done: Done) -> dict[str, dict[str, float]]:
    """By role: ||cast(x) - x|| / ||x||, and / ||x - base|| where there is a base, from the sampled chunks."""
    sums: dict[str, list[float]] = {}
    # in a fixed order, whichever tensor was finished first: the sums stand in chorus.json
    for name in sorted(variant.tensors):
        role = variant.tensors[name].role
        total = sums.setdefault(f"{role.component} {role.kind}", [0.0, 0.0, 0.0])
        for i, value in enumerate(done[variant.name, name]["loss"]):
            total[i] += value
    losses = {}
    for role_name, (error, weights, deltas) in sorted(sums.items()):
        if weights > 0 and error > 0:
            losses[role_name] = {"of_weights": (error / weights) ** 0.5}
            if deltas > 0:
                losses[role_name]["of_delta"] = (error / deltas) ** 0.5
    return losses


def _loss_lines(losses: dict[str, dict[str, float]]) -> list[str]:
    """The roles whose delta the cast damages, in words."""
    return [
        f"{role}: the cast to the output type changes the merged delta by {100 * loss['of_delta']:.0f} %; "
        "for exact deltas write out_dtype: float32"
        for role, loss in losses.items()
        if loss.get("of_delta", 0) > SHOW_LOSS
    ]


def provenance_of(
    plan: Plan, variant: Variant, identities: list[dict[str, object]], losses: dict[str, dict[str, float]]
) -> dict[str, object]:
    """`chorus.json`: the recipe as resolved, the identity of what went in, versions, what the cast lost."""
    # no date, duration, host or path: the same merge gives the same file
    return {
        "chorus": __version__,
        "recipe": public_document(plan.recipe.document, plan.references),
        "resolved": {
            "method": variant.method,
            "variant": variant.name or None,
            "seed": plan.seed,
            "base_model": plan.references[plan.base].name if plan.base is not None else None,
            "donor": plan.references[plan.donor].name,
            "device": plan.options.device,
            "parameters": _resolved(plan, variant),
        },
        "inputs": identities,
        "trained_on": plan.trained_on,
        "licenses": plan.licences,
        "versions": versions(),
        "cast_loss": losses,
        **plan.facts,
    }


def _resolved(plan: Plan, variant: Variant) -> list[dict[str, object]]:
    """The distinct parameter sets, each with the tensors that it was used on."""
    groups: dict[str, tuple[dict[str, object], list[str]]] = {}
    for tensor in variant.tensors.values():
        facts: dict[str, object] = {"method": tensor.method}
        facts |= {"reason": tensor.reason} if tensor.reason else {}
        facts |= {"treatment": tensor.treatment} if tensor.treatment else {}
        facts["models"] = [plan.references[i.model].name for i in tensor.inputs]
        parameters = plain_parameters(tensor)
        facts |= {"parameters": parameters} if parameters else {}
        groups.setdefault(repr(facts), (facts, []))[1].append(tensor.name)
    return [{**facts, "tensors": len(names), "first": names[0]} for facts, names in groups.values()]


def _what(plan: Plan, variant: Variant) -> tuple[str, str]:
    """A title, and what the result is in a clause: a merge of so many models, or a model with adapters on it."""
    others = [reference for i, reference in enumerate(plan.references) if i != plan.base]
    base = plan.references[plan.base] if plan.base is not None else None
    if base is not None and others and all(o.adapter is not None and o.without_adapter == base for o in others):
        added = " + ".join(o.adapter.name for o in others if o.adapter is not None)
        number = "what an adapter or vector adds" if len(others) == 1 else f"what {len(others)} adapters or vectors add"
        return f"{base.name} + {added}", f"{base.name} and {number}, by `{variant.method}`"
    count = len(plan.licences)
    counted = f"{count} models" if count != 1 else "1 model"
    return f"{variant.method} of {counted}", f"A merge of {counted} by `{variant.method}`"


def _card(plan: Plan, variant: Variant, losses: list[str]) -> str:
    donor: Model = plan.models[plan.donor]
    metadata = [card_metadata(m.directory) for m in plan.models]
    languages: list[str] = []
    for one in metadata:
        # a card has one language as a text, several as a list
        value = one.get("language")
        languages += [v for v in (value if isinstance(value, list) else [value]) if isinstance(v, str)]
    kind = kind_of(donor.config)
    tag = card_metadata(donor.directory).get("pipeline_tag") or (kind.pipeline_tag if kind is not None else None)
    title, intro = _what(plan, variant)
    recipe = public_document(plan.recipe.document, plan.references)
    return model_card(
        title=variant.name or plan.recipe.recipe.name or title,
        intro=intro,
        method=variant.method,
        base_models=plan.hub_ids,
        licences=plan.licences,
        languages=list(dict.fromkeys(languages)),
        pipeline_tag=str(tag) if tag else None,
        recipe_yaml=yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True),
        losses=losses,
    )
