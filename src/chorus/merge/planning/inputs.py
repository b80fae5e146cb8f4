"""The models of a recipe, opened, with their layouts; and whether they fit each other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from chorus.architectures.families import is_whisper
from chorus.architectures.layouts import layout_and_doubt
from chorus.architectures.roles import Layout
from chorus.checkpoints.beside import Beside
from chorus.checkpoints.composite import composite_of, is_part_of, outside, part_of, within
from chorus.checkpoints.configs import check_configs
from chorus.checkpoints.dtypes import FLOATS
from chorus.checkpoints.lazy_tensor import Checkpoint, FileTensor, MappedFile
from chorus.checkpoints.model import Model, OpenOptions, relabelled
from chorus.checkpoints.open import open_model
from chorus.checkpoints.reference import Reference, labelled, parse_reference
from chorus.checkpoints.safetensors_header import read_header
from chorus.checkpoints.spelling import completed, respelled
from chorus.errors import CheckpointError, ChorusError, nearest, some
from chorus.files import expanded
from chorus.merge.method import Method
from chorus.merge.options import Options
from chorus.merge.recipes.schema import ModelEntry, Module, Recipe, Slice


@dataclass
class Inputs:
    """All models that a recipe names, each once, in the order of naming; the base by its index."""

    references: list[Reference] = field(default_factory=list)
    models: list[Model] = field(default_factory=list)
    layouts: list[Layout] = field(default_factory=list)
    base: int | None = None
    donor: int = 0
    tokenizer: int | None = None
    beside: list[Beside] = field(default_factory=list)
    auxiliary: list[Model] = field(default_factory=list)
    auxiliary_places: dict[tuple[int, str], int] = field(default_factory=dict)  # (model, name) -> place in `sources`
    kept: frozenset[str] = frozenset()  # tensors of the donor's around a part that others are alone: not merged
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def index(self, reference: Reference) -> int:
        return self.references.index(reference)

    @property
    def sources(self) -> list[Model]:
        """Whatever tensors are read from: the models, then what is given beside them."""
        return [*self.models, *self.auxiliary]

    def auxiliary_of(self, model: int, name: str) -> int | None:
        """The place among `sources` of what a model is given beside it under a name."""
        return self.auxiliary_places.get((model, name))


def sources_of(recipe: Recipe) -> Iterator[tuple[str, ModelEntry]]:
    """Every place of a recipe where a model is merged, with its path in the recipe."""

    def within(part: Recipe | Module, where: str) -> Iterator[tuple[str, ModelEntry]]:
        for i, entry in enumerate(part.models or []):
            yield f"{where}models[{i}]", entry
        for i, one in enumerate(part.slices or []):
            for j, source in enumerate(one.sources):
                yield f"{where}slices[{i}].sources[{j}]", source

    yield from within(recipe, "")
    for name, module in (recipe.modules or {}).items():
        yield from within(module, f"modules.{name}.")


def reference_of(entry: ModelEntry) -> Reference:
    return parse_reference(entry.model, entry.lora)


def open_inputs(recipe: Recipe, options: Options, *, weights: bool) -> Inputs:
    """Open every model that the recipe names. Problems are collected, not raised."""
    inputs = Inputs()
    base = None
    try:
        base = parse_reference(recipe.base_model) if recipe.base_model is not None else None
    except ValueError as error:
        inputs.problems.append(f"base_model: {error}")
    for where, entry in sources_of(recipe):
        try:
            reference = reference_of(entry)
        except ValueError as error:
            inputs.problems.append(f"{where}: {error}")
            continue
        if reference not in inputs.references:
            inputs.references.append(reference)
    for part in slices_of(recipe):
        if part.base_model is not None:
            _add_base(inputs, part.base_model, "slices.base_model")
    if base is not None:
        # after the models, where mergekit puts a base that is not listed
        if base not in inputs.references:
            inputs.references.append(base)
        inputs.base = inputs.donor = inputs.references.index(base)
    # messages, tables and the card go by these names: three models may all lie in a checkpoint-1000
    inputs.references = labelled(inputs.references)
    opened = OpenOptions(options.allow_pickle, options.offline, options.cache_dir, weights, options.within)
    for reference in inputs.references:
        _open(inputs, reference, opened)
    if not inputs.problems:
        _meet(inputs)
        _spell_alike(inputs)
    return inputs


def _meet(inputs: Inputs) -> None:
    """Wholes and parts of wholes as what the donor is: put into the donor, or taken out of what they are part of."""
    donor = inputs.models[inputs.donor]
    alone = [i for i, model in enumerate(inputs.models) if is_part_of(model, donor)]
    taken_out = [i for i, model in enumerate(inputs.models) if is_part_of(donor, model)]
    for i in [*alone, *taken_out]:
        model = inputs.models[i]
        inputs.models[i] = within(model, donor) if i in alone else part_of(model)
        inputs.layouts[i], _ = layout_and_doubt(inputs.models[i].config, inputs.models[i].checkpoint)
    found = composite_of(donor)
    if alone and found is not None:
        inputs.kept = frozenset(outside(donor))
        labels = some(inputs.models[i].label for i in alone)
        inputs.warnings.append(f"{labels}: the {found.name} alone, all else of the result is {donor.label}'s")


def _spell_alike(inputs: Inputs) -> None:
    """Every model in the spelling of the one whose config the result has: from here on a name is one tensor in all."""
    donor = inputs.models[inputs.donor]
    for i, model in enumerate(inputs.models):
        try:
            like = completed(respelled(model, donor), donor) if model.architecture == donor.architecture else model
        except ChorusError as error:
            inputs.problems.append(f"{model.label}: {error}")
            continue
        if like is not model:
            inputs.models[i] = like
            inputs.layouts[i], _ = layout_and_doubt(like.config, like.checkpoint)
            inputs.warnings += like.warnings[len(model.warnings) :]


def warn_of_base(inputs: Inputs, recipe: Recipe, methods: Sequence[Method]) -> None:
    """Say where a mean takes the base in that `models` does not list (mergekit does so too)."""
    if inputs.base is None:
        return
    for entries in (recipe.models, *(module.models for module in (recipe.modules or {}).values())):
        listed = {inputs.index(reference_of(entry)) for entry in entries or []}
        if not listed or inputs.base in listed:
            continue
        for method in methods:
            if method.base in ("input", "first"):
                inputs.warnings.append(
                    f"{method.name}: base_model ({inputs.models[inputs.base].label}) is merged as well, "
                    f"{len(listed) + 1} models in all; without base_model only the listed ones are"
                )


def open_auxiliary(inputs: Inputs, recipe: Recipe, methods: Sequence[Method]) -> None:
    """Open what methods take beside each model; names that no method takes, and missing ones, are problems."""
    wanted = list(dict.fromkeys(name for method in methods for name in method.auxiliary))
    for where, entry in sources_of(recipe):
        index = inputs.index(reference_of(entry))
        for name, path in entry.auxiliary.items():
            if name not in wanted:
                inputs.problems.append(f"{where}.auxiliary.{name}: no method here takes it{nearest(name, wanted)}")
                continue
            try:
                model = _beside(expanded(path), f"{inputs.models[index].label}'s {name}")
            except ChorusError as error:
                inputs.problems.append(f"{where}.auxiliary.{name}: {error}")
                continue
            inputs.auxiliary.append(model)
            inputs.auxiliary_places[index, name] = len(inputs.sources) - 1
        lacking = [name for name in wanted if (index, name) not in inputs.auxiliary_places and index != inputs.base]
        inputs.problems += [f"{where}: no {name}; write auxiliary: {{{name}: FILE.safetensors}}" for name in lacking]


def _beside(path: Path, label: str) -> Model:
    """A safetensors file of tensors named as a model's own."""
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file", "name a safetensors file")
    # by the entries' names, which are the model's own: no config tells what these tensors are for
    header, file = read_header(path), MappedFile(path)
    tensors = {entry.name: FileTensor(entry, file) for entry in header.entries.values()}
    return Model(label, Checkpoint(tensors, label), {}, None, files={path.name: header}, paths={path.name: path})


def slices_of(recipe: Recipe) -> list[Slice]:
    return [*(recipe.slices or []), *(s for m in (recipe.modules or {}).values() for s in m.slices or [])]


def _add_base(inputs: Inputs, value: object, where: str) -> None:
    try:
        reference = parse_reference(value)
    except ValueError as error:
        inputs.problems.append(f"{where}: {error}")
        return
    if reference not in inputs.references:
        inputs.problems.append(f"{where}: {reference} is not among the sources of its slice")


def _open(inputs: Inputs, reference: Reference, options: OpenOptions) -> None:
    try:
        model = open_model(reference, options)
        layout, doubt = layout_and_doubt(model.config, model.checkpoint)
    except ChorusError as error:
        inputs.problems.append(str(error))
        return
    # somebody's config: what is odd in it must not hide the other models' problems
    except (ValueError, KeyError, TypeError) as error:
        inputs.problems.append(f"{reference}: its layout cannot be told: {error}")
        return
    # of what was opened before, or is given, the name is another's
    inputs.models.append(model if model.label == reference.name else relabelled(model, reference.name))
    inputs.layouts.append(layout)
    inputs.warnings += [*model.warnings, *([f"{model.label}: {doubt}"] if doubt else [])]


def check_inputs(inputs: Inputs, options: Options, *, stacked: bool = False) -> None:
    """Compare every model with the donor; add to the inputs' problems and warnings."""
    donor, layout = inputs.models[inputs.donor], inputs.layouts[inputs.donor]
    for model, other in zip(inputs.models, inputs.layouts, strict=True):
        if model is donor:
            continue
        mine, theirs = donor.architecture, model.architecture
        if mine != theirs:  # and no more of it: every name and shape would be a further problem
            inputs.problems.append(
                f"{model.label} is a {theirs or '?'}, {donor.label} a {mine or '?'}: only models of one class merge"
                " ({model: ..., override_architecture: CLASS} reads one as the other's)"
            )
            continue
        _check_names(inputs, donor, layout, model, other, stacked)
        _check_shapes(inputs, donor, model, options)
        _check_dtypes(inputs, donor, model)
        _check_front_end(inputs, donor, model)
        problems, warnings = check_configs(donor, model, stacked=stacked, where=f"the result, from {donor.label}")
        inputs.problems += problems
        inputs.warnings += warnings


def _check_names(inputs: Inputs, donor: Model, layout: Layout, model: Model, other: Layout, stacked: bool) -> None:
    mine, theirs = set(donor.checkpoint), set(model.checkpoint)
    if stacked:  # models of other depths may be stacked: their layers are checked where they are used
        mine = {n for n in mine if layout.roles[n].layer is None}
        theirs = {n for n in theirs if other.roles[n].layer is None}
    for names, verb in ((mine - theirs, "lacks"), (theirs - mine, "has besides")):
        if names:
            inputs.problems.append(
                f"{model.label} {verb} {len(names)} tensors of {donor.label}'s: {some(sorted(names))}"
                if verb == "lacks"
                else f"{model.label} has {len(names)} tensors that {donor.label} lacks: {some(sorted(names))}"
            )


def _check_shapes(inputs: Inputs, donor: Model, model: Model, options: Options) -> None:
    different = [
        n for n in donor.checkpoint if n in model.checkpoint and donor.checkpoint[n].shape != model.checkpoint[n].shape
    ]
    rows = vocabulary_sizes(donor), vocabulary_sizes(model)
    vocabulary = [
        n for n in different if donor.checkpoint[n].shape[0] == rows[0] and model.checkpoint[n].shape[0] == rows[1]
    ]
    if vocabulary:
        text = f"{model.label} has a vocabulary of {rows[1]}, {donor.label} of {rows[0]}"
        # 51,866 against 51,865: large-v3's Cantonese moves every token after it
        if is_whisper(donor.config):
            inputs.problems.append(
                f"{text}: they cannot be merged, for in Whisper's one language more moves all tokens after it"
            )
        elif options.truncate_vocabulary:
            inputs.warnings.append(f"{text}: rows past {min(rows)} are left out of the result (--truncate-vocabulary)")
        else:
            inputs.problems.append(
                f"{text}: if the first {min(rows)} tokens are the same, pass --truncate-vocabulary to keep those"
            )
    kinds = [
        n for n in donor.checkpoint if n in model.checkpoint
        and (donor.checkpoint[n].dtype in FLOATS) != (model.checkpoint[n].dtype in FLOATS)
    ]  # fmt: skip
    for name in kinds[:5]:
        mine, theirs = donor.checkpoint[name].dtype, model.checkpoint[name].dtype
        inputs.problems.append(f"{name} holds {theirs} in {model.label}, {mine} in {donor.label}")
    # five tell what is wrong; another width would list hundreds
    for name in [n for n in different if n not in vocabulary][:5]:
        inputs.problems.append(
            f"{name} has the shape {list(model.checkpoint[name].shape)} in {model.label}, "
            f"{list(donor.checkpoint[name].shape)} in {donor.label}"
        )


def vocabulary_sizes(model: Model) -> int:
    """The rows of the token embedding, as the config gives them."""
    text = model.config.get("text_config")
    nested = text.get("vocab_size") if isinstance(text, dict) else None
    return int(model.config.get("vocab_size") or nested or 0)


def _check_dtypes(inputs: Inputs, donor: Model, model: Model) -> None:
    mine, theirs = ({t.stored_dtype for t in m.checkpoint.values()} for m in (donor, model))
    if mine != theirs:  # a base that was rounded leaves its rounding in every delta
        inputs.warnings.append(
            f"{model.label} is stored in {', '.join(sorted(theirs))}, {donor.label} in {', '.join(sorted(mine))}"
        )


# Another number of mels fails by its shape; another window or scaling would only make the result worse, in silence.
FRONT_END = ("feature_size", "sampling_rate", "hop_length", "n_fft", "num_mel_bins", "do_normalize")


def _check_front_end(inputs: Inputs, donor: Model, model: Model) -> None:
    from chorus.checkpoints.sidecar import feature_extractor_of

    mine, theirs = feature_extractor_of(donor.directory), feature_extractor_of(model.directory)
    different = [k for k in FRONT_END if k in mine and k in theirs and mine[k] != theirs[k]]
    if different:
        inputs.problems.append(f"{model.label} and {donor.label} differ in their features: {', '.join(different)}")
