"""Which model gives which file beside the weights: the donor what it has, else the first that has it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from chorus.checkpoints.beside import OWN_ADAPTER, Beside, beside, is_processor, is_tokenizer, list_files
from chorus.checkpoints.model import Model
from chorus.checkpoints.sidecar import VOCABULARIES, chat_template_of
from chorus.checkpoints.vocabulary import same
from chorus.errors import CheckpointError, some
from chorus.files import MAX_TOKENIZER, present, read_json, regular
from chorus.merge.planning.inputs import Inputs

COMPLETED = ("tokenizer.json", "tokenizer_config.json", "processor_config.json")  # of which older forms are made
CODE_CONFIGS = ("config.json", "tokenizer_config.json", "preprocessor_config.json", "processor_config.json")


def look_beside(inputs: Inputs) -> None:
    """Find out what lies beside every model's weights."""
    try:
        inputs.beside = [beside(model) for model in inputs.models]
    except CheckpointError as error:
        inputs.problems.append(str(error))
        inputs.beside = [Beside() for _ in inputs.models]
    for model, one in zip(inputs.models, inputs.beside, strict=True):
        if not has_vocabulary(one):
            one.carried |= _with_adapter(model)


def _with_adapter(model: Model) -> dict[str, Path]:
    """The tokenizer's files that lie beside the adapter put on last: trainings leave one there."""
    places = [path.parent for path in model.adapter_paths.values()]
    return {name: places[-1] / name for name in list_files(places[-1]) if is_tokenizer(name)} if places else {}


def side_files(inputs: Inputs) -> Beside:
    """Choose the files; what comes from another than the donor is a warning, `inputs.tokenizer` is set."""
    found = inputs.beside
    chosen = Beside()
    for name, kind in ((n, kind) for one in found for kind, names in one.left.items() for n in names):
        if name not in chosen.left.setdefault(kind, []):
            chosen.left[kind].append(name)
    order = sorted(range(len(found)), key=lambda i: i != inputs.donor)
    _tokenizer(inputs, found, order, chosen)
    _processor(inputs, found, order, chosen)
    _others(inputs, found, order, chosen)
    _code(inputs, chosen)
    for name, path in chosen.carried.items():
        try:
            if name in COMPLETED and present(path):  # else it would be read, and refused, after the merge
                read_json(path, limit=MAX_TOKENIZER)
            elif present(path):  # of the hub large ones may not be here yet
                regular(path)
        except CheckpointError as error:
            inputs.problems.append(str(error))
    return chosen


def _tokenizer(inputs: Inputs, found: list[Beside], order: list[int], chosen: Beside) -> None:
    """The tokenizer, whole from one model: mixed files would not fit each other."""
    wanted = inputs.donor if inputs.tokenizer is None else inputs.tokenizer
    giver = _first([wanted, *order], found, has_vocabulary)
    if giver is None:
        giver = wanted
    elif giver != wanted:
        inputs.warnings.append(
            f"{inputs.models[wanted].label} has no tokenizer: the result takes {inputs.models[giver].label}'s"
        )
    given = {n: p for n, p in found[giver].carried.items() if is_tokenizer(n)}
    if inputs.tokenizer == giver:  # asked for by name: an adapter's own goes before its base's
        own = _with_adapter(inputs.models[giver])
        given = own if has_vocabulary(Beside(own)) else given
    inputs.tokenizer = giver
    chosen.carried |= given
    if chat_template_of(given):
        return
    files = {i: (found[i].carried, _with_adapter(inputs.models[i])) for i in order}
    speaking = [inputs.models[i].label for i in order if any(map(chat_template_of, files[i]))]
    if speaking:
        inputs.warnings.append(
            f"the result has no chat template, as {inputs.models[giver].label} has none; {', '.join(speaking)} "
            f"{'has' if len(speaking) == 1 else 'have'} one (tokenizer_source: takes that model's tokenizer with it)"
        )


def has_vocabulary(one: Beside) -> bool:
    return any(name in VOCABULARIES or name.endswith(".tiktoken") for name in one.carried)


def _processor(inputs: Inputs, found: list[Beside], order: list[int], chosen: Beside) -> None:
    giver = _first(order, found, lambda one: any(map(is_processor, one.carried)))
    if giver is None:
        return
    if giver != inputs.donor:
        inputs.warnings.append(
            f"{inputs.models[inputs.donor].label} has no processor: the result takes {inputs.models[giver].label}'s"
        )
    chosen.carried |= {n: p for n, p in found[giver].carried.items() if is_processor(n)}


def _others(inputs: Inputs, found: list[Beside], order: list[int], chosen: Beside) -> None:
    """Every other file from the first model that has it."""
    for i in order:
        new = [n for n in found[i].carried if n not in chosen.carried and not (is_tokenizer(n) or is_processor(n))]
        chosen.carried |= {n: found[i].carried[n] for n in new}
        others = [n for n in OWN_ADAPTER if n in found[i].carried and n not in new]
        if i != inputs.donor and any(not same(found[i].carried[n], chosen.carried[n]) for n in others):
            inputs.warnings.append(
                f"{inputs.models[i].label} brings another adapter of its own, which is not merged: the result has "
                f"{inputs.models[inputs.donor].label}'s"
            )
        if new and i != inputs.donor:
            inputs.warnings.append(
                f"from {inputs.models[i].label}, as {inputs.models[inputs.donor].label} has none: {some(new, 6)}"
            )


def _code(inputs: Inputs, chosen: Beside) -> None:
    """Say that the result comes with code, or lacks what its config names."""
    modules = set(_named(inputs.models[inputs.donor].config))
    for name in CODE_CONFIGS[1:]:
        if name in chosen.carried:
            modules |= set(_named(read_json(chosen.carried[name])))
    there = sorted(name for name in modules if name in chosen.carried)
    if there:
        inputs.warnings.append(f"the model brings code of its own, carried as it is and not run: {some(there, 6)}")
    missing = sorted(modules - set(there))
    if missing:
        inputs.warnings.append(f"auto_map names {some(missing, 6)}, which no model has: the result needs the code")


def _named(config: dict[str, object]) -> Iterator[str]:
    """The files of code that an `auto_map` names in the model's own directory (`org/name--` leads elsewhere)."""
    entries = config.get("auto_map")
    for entry in entries.values() if isinstance(entries, dict) else ():
        for one in entry if isinstance(entry, list) else [entry]:
            if isinstance(one, str) and "--" not in one and "." in one:
                yield f"{one.rpartition('.')[0].replace('.', '/')}.py"


def _first(order: list[int], found: list[Beside], has: Callable[[Beside], bool]) -> int | None:
    return next((i for i in order if has(found[i])), None)
