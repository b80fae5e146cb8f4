"""Output tensors one by one: which tensors of which models become which tensor of the result, and how."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from chorus.architectures.roles import Role, Stack, layer_index, relative_depth
from chorus.checkpoints.dtypes import FLOATS, parse_dtype, promote
from chorus.checkpoints.lazy_tensor import LazyTensor
from chorus.checkpoints.reference import parse_reference
from chorus.merge.arithmetic.tensor_plan import Input, Step, TensorPlan
from chorus.merge.method import Method, Parameter, Resolved, Value
from chorus.merge.options import Options
from chorus.merge.planning.inputs import Inputs, reference_of, vocabulary_sizes
from chorus.merge.planning.steps import check_steps, steps_of
from chorus.merge.recipes.parameters import MISSING, Missing, Site, convert, gradient_position, matches_role, resolve
from chorus.merge.recipes.schema import ModelEntry, Module, Output, Recipe


@dataclass(frozen=True)
class SliceSource:
    """A model in a slice: its index, its first layer, its own parameters."""

    model: int
    first: int
    parameters: dict[str, object]


@dataclass(frozen=True)
class OutputSlice:
    """`count` output layers of a module. `base` is the base's place: a source's index, or None outside."""

    module: str
    count: int
    sources: tuple[SliceSource, ...]
    base: SliceSource | None
    scopes: tuple[dict[str, object], ...]  # the slice's and the module's parameters, innermost first


@dataclass(frozen=True)
class Slot:
    """An output tensor before its method is known: its name, role, place, and its name in each source."""

    name: str
    site: Site
    part: OutputSlice
    names: dict[int, str] = field(hash=False)  # source's model -> tensor name there


def output_slices(recipe: Recipe, inputs: Inputs) -> dict[str, list[OutputSlice]]:
    """The slices of every module of the result."""
    layout = inputs.layouts[inputs.donor]
    # a model without layers has one slice of none, under a prefix that no name has
    stacks = layout.stacks or (Stack("default", "\0", 0, None),)
    if recipe.modules:
        names = set(layout.modules)
        for name in set(recipe.modules) - names:
            inputs.problems.append(f"modules.{name}: the model has the modules {', '.join(sorted(names))}")
        # mergekit 0.1.5 writes the named modules alone and ends well: a Whisper without its encoder
        for name in sorted(names - set(recipe.modules)):
            inputs.problems.append(f"modules: {name} is missing, so that its tensors would be too")
        return {
            s.module: _module_slices(
                recipe.modules[s.module], s, recipe, inputs, (recipe.modules[s.module].parameters,)
            )
            for s in stacks
            if s.module in recipe.modules
        }
    if recipe.slices and len(stacks) > 1:
        inputs.problems.append(
            f"slices: the model has the modules {', '.join(layout.modules)}; write slices under modules, for each"
        )
        return {}
    return {s.module: _module_slices(recipe, s, recipe, inputs, ()) for s in stacks}


def _module_slices(
    part: Recipe | Module, stack: Stack, recipe: Recipe, inputs: Inputs, scopes: tuple[dict[str, object], ...]
) -> list[OutputSlice]:
    if part.models:
        return [_models_slice(part.models, stack, inputs, scopes)]
    result = []
    for i, one in enumerate(part.slices or []):
        sources = tuple(SliceSource(inputs.index(reference_of(s)), s.layer_range[0], s.parameters) for s in one.sources)
        for source, written in zip(sources, one.sources, strict=True):
            have = inputs.layouts[source.model].stack(stack.module)
            if have and not 0 <= written.layer_range[0] < written.layer_range[1] <= have.count:
                inputs.problems.append(
                    f"slices[{i}]: layer_range {list(written.layer_range)} is beyond the {have.count} layers of "
                    f"{inputs.models[source.model].label}"
                )
        count = one.sources[0].layer_range[1] - one.sources[0].layer_range[0]
        base = _slice_base(one.base_model if one.base_model is not None else recipe.base_model, sources, inputs)
        result.append(OutputSlice(stack.module, count, sources, base, (one.parameters, *scopes)))
    return result


def _models_slice(
    entries: list[ModelEntry], stack: Stack, inputs: Inputs, scopes: tuple[dict[str, object], ...]
) -> OutputSlice:
    """The `models` form: all layers of each; an unlisted base joins as the last input."""
    sources = [SliceSource(inputs.index(reference_of(e)), 0, e.parameters) for e in entries]
    indices = [s.model for s in sources]
    # mergekit 0.1.5 refuses it too; its main branch merges such a list without a word
    for index in {i for i in indices if indices.count(i) > 1}:
        inputs.problems.append(f"models: {inputs.references[index]} is listed twice")
    base = None
    if inputs.base is not None:
        base = next((s for s in sources if s.model == inputs.base), None)
        if base is None:
            base = SliceSource(inputs.base, 0, {})
            sources.append(base)
    return OutputSlice(stack.module, stack.count, tuple(sources), base, scopes)


def _slice_base(value: object, sources: tuple[SliceSource, ...], inputs: Inputs) -> SliceSource | None:
    if value is None:
        return None
    # in slices an unlisted base never becomes an input (mergekit): it then only names the donor
    index = inputs.references.index(parse_reference(value))
    return next((s for s in sources if s.model == index), None)


class Builder:
    """Builds the tensors of one output model."""

    def __init__(
        self,
        recipe: Recipe,
        inputs: Inputs,
        options: Options,
        output: Output,
        method: Method,
        slices: dict[str, list[OutputSlice]],
    ) -> None:
        self.recipe, self.inputs, self.options, self.output = recipe, inputs, options, output
        self.method, self.slices = method, slices
        self.layout = inputs.layouts[inputs.donor]
        self.excluded = [*selectors(recipe.exclude), *selectors(output.exclude)]
        # mergekit's `dtype` is the arithmetic's type too, which here is float32 at least: it only names what is written
        written = output.out_dtype or recipe.out_dtype or recipe.dtype
        self.dtype = parse_dtype(written) if written else None
        self.checked: set[tuple[str, int]] = set()
        self.plain: dict[tuple[int, int, int], Value | Missing] = {}
        self.layers: dict[tuple[int, str], dict[int, list[tuple[str, Role]]]] = {}

    def build(self) -> dict[str, TensorPlan]:
        """Every output tensor, in the order of the names."""
        if self.inputs.problems:
            return {}
        slots = {slot.name: slot for slot in self._slots()}
        # the order of the output's files too, so that a shard holds whole layers and a reader meets them in turn
        tensors = {name: self._tensor(slots[name]) for name in sorted(slots, key=_natural)}
        return {name: t for name, t in tensors.items() if t is not None}

    def _slots(self) -> Iterator[Slot]:
        for name, role in self.layout.roles.items():
            if role.layer is not None:
                continue
            # what belongs to no stack (a projector, a scale) goes by the first module's settings
            parts = self.slices.get(role.module) or next(iter(self.slices.values()))
            # mergekit's rule: before the layers the first slice's sources and parameters hold, after them the last's
            part = parts[0] if role.place == "before" else parts[-1]
            yield Slot(name, Site(name, role), part, {s.model: name for s in part.sources})
        for stack in self.layout.stacks:
            parts = self.slices.get(stack.module, [])
            places = [(part, j) for part in parts for j in range(part.count)]
            for out, (part, j) in enumerate(places):
                yield from self._layer_slots(stack, part, j, out, len(places))
            yield from self._strays(stack, places)

    def _strays(self, stack: Stack, places: list[tuple[OutputSlice, int]]) -> Iterator[Slot]:
        """Tensors of layers that a file keeps elsewhere, under names that tell of no layer."""
        stays = [all(s.first + j == out for s in part.sources) for out, (part, j) in enumerate(places)]
        for name, role in self.layout.roles.items():
            if role.layer is None or role.module != stack.module or layer_index(name, stack.prefix):
                continue
            if stays != [True] * stack.count:
                self.inputs.problems.append(f"slices: {name} is of a layer, but is not named by it: no layer can move")
                return
            part, j = places[role.layer]
            site = Site(name, role, gradient_position(j, part.count))
            yield Slot(name, site, part, {s.model: name for s in part.sources})

    def _layer_slots(self, stack: Stack, part: OutputSlice, j: int, out: int, total: int) -> Iterator[Slot]:
        first = part.sources[0]
        # each source by its own prefix and number: only what follows the number is common to all
        places = [(s.model, f"{self._prefix(s.model, stack)}{s.first + j}.") for s in part.sources]
        for rest, role in self._layer(first.model, self._prefix(first.model, stack)).get(first.first + j, ()):
            names = {model: f"{place}{rest}" for model, place in places}
            # the place in the result: `layers` in a recipe counts the layers as stacked
            own = Role(role.component, role.kind, role.module, out, relative_depth(out, total), "layer", role.learned)
            # every slice runs from 0 to 1 by itself (mergekit); what lies outside the layers keeps the Site's t of 0
            target = f"{stack.prefix}{out}.{rest}"
            yield Slot(target, Site(target, own, gradient_position(j, part.count)), part, names)

    def _layer(self, model: int, prefix: str) -> dict[int, list[tuple[str, Role]]]:
        """The layers of a stack by number: what follows the number in the names of its tensors, and their roles."""
        place = (model, prefix)
        if place not in self.layers:  # one pass for all layers: some models have hundreds, and of many tensors
            found: dict[int, list[tuple[str, Role]]] = defaultdict(list)
            for name, role in self.inputs.layouts[model].roles.items():
                inside = layer_index(name, prefix)
                if inside:
                    found[inside[0]].append((inside[1], role))
            self.layers[place] = dict(found)
        return self.layers[place]

    def _prefix(self, model: int, stack: Stack) -> str:
        have = self.inputs.layouts[model].stack(stack.module)
        return have.prefix if have else stack.prefix

    def _tensor(self, slot: Slot) -> TensorPlan | None:
        present = [s for s in slot.part.sources if slot.names[s.model] in self.inputs.models[s.model].checkpoint]
        if len(present) < len(slot.part.sources):
            missing = next(s for s in slot.part.sources if s not in present)
            self.inputs.problems.append(
                f"{slot.name}: {self.inputs.models[missing.model].label} has no tensor {slot.names[missing.model]}"
            )
            return None
        inputs = {s.model: Input(s.model, slot.names[s.model]) for s in present}
        if reason := self._copied(slot):
            # the base's, else the donor's, whose config the result has
            keeper = slot.part.base or next((s for s in present if s.model == self.inputs.donor), present[0])
            kept = (inputs[keeper.model],)
            return self._plan(slot, (), kept, shape=self._shape(slot, kept), reason=reason)
        return self._merged(slot, present, inputs)

    def _copied(self, slot: Slot) -> str:
        tensor = self.inputs.models[slot.part.sources[0].model].checkpoint[slot.names[slot.part.sources[0].model]]
        if any(matches_role(selector, slot.site) for selector in self.excluded):
            return "excluded"
        if slot.name in self.inputs.kept:
            return "not in every model"
        if not slot.site.role.merged:
            return "not learned"
        # fine-tunes' counters (num_batches_tracked) may differ, where mergekit refuses the merge or averages them
        return "" if tensor.dtype in FLOATS else "not a number to merge"

    def _merged(self, slot: Slot, present: list[SliceSource], inputs: dict[int, Input]) -> TensorPlan | None:
        """Order the inputs as the method takes them, and resolve its parameters."""
        method, base = self.method, slot.part.base
        models = list(present)
        # slerp's t = 0 is the base in whatever order the recipe lists the two (mergekit)
        if method.base == "first" and base in models:
            models = [base, *(s for s in models if s is not base)]
        separate = base if method.base in ("required", "optional") else None
        # a base that is named and not there leaves open which of the two is t = 0; mergekit refuses it too
        lost = method.base == "first" and base is None and self.recipe.base_model is not None
        if lost or (method.base == "required" and separate is None):
            self.inputs.problems.append(
                f"{method.name} needs a base_model"
                + (" among the sources of every slice" if self.slices and not self.recipe.models else "")
            )
            return None
        if separate is not None:
            models = [s for s in models if s is not separate]
        if not self._countable(len(models), separate is not None):
            return None
        chosen = tuple(inputs[s.model] for s in models)
        origin = inputs[separate.model] if separate else None
        shape = self._shape(slot, (*chosen, *((origin,) if origin else ())))
        steps = self._steps(slot, models, shape)
        return None if steps is None else self._plan(slot, steps, chosen, origin, shape=shape)

    def _countable(self, count: int, besides_base: bool) -> bool:
        """Whether the method takes so many models."""
        low, high = self.method.models
        if low <= count and (high is None or count <= high):
            return True
        wanted = f"{low}" if low == high else f"at least {low}" if high is None else f"{low} to {high}"
        kind = " besides the base" if besides_base else ""
        self.inputs.problems.append(f"{self.method.name} takes {wanted} models{kind}; got {count}")
        return False

    def _steps(self, slot: Slot, models: list[SliceSource], shape: tuple[int, ...]) -> tuple[Step, ...] | None:
        """The steps of a tensor, with the parameters that hold here; None where a value is missing or refused."""

        def value(method: Method, parameter: Parameter) -> Resolved:
            if not parameter.per_model:
                found = self._value(parameter, slot, None)
                if isinstance(found, Missing):
                    raise ValueError(f"{method.name} needs the parameter {parameter.name}")
                return found
            each: list[Value] = []
            known = [self._value(parameter, slot, source) for source in models]
            # mergekit asks a mean for weights; where the recipe has none at all it can only be the plain one. Under
            # conditions of which none holds here they are missing
            lacking = all(isinstance(one, Missing) for one in known) and method.linear and method.space == "weights"
            if lacking and not any(self._settings(parameter, slot, source) for source in models):
                return (1 / len(models),) * len(models)
            for source, found in zip(models, known, strict=True):
                if isinstance(found, Missing):
                    label = self.inputs.models[source.model].label
                    raise ValueError(f"{method.name} needs {parameter.name} for {label}")
                each.append(found)
            return tuple(each)

        try:
            steps = steps_of(self.method, value, role=slot.site.role, shape=shape, models=len(models))
        except ValueError as error:
            told = str(error)
            self.inputs.problems.append(told if told.startswith(self.method.name) else f"{self.method.name}: {told}")
            return None
        return steps if self._admissible(steps, len(models)) else None

    def _admissible(self, steps: tuple[Step, ...], count: int) -> bool:
        """Let the methods look at their parameters, once for each distinct set of them."""
        key = (repr(steps), count)
        if key not in self.checked:
            self.checked.add(key)
            try:
                check_steps(steps, count)
            except ValueError as error:
                self.inputs.problems.append(f"{self.method.name}: {error}")
                return False
        return True

    def _value(self, parameter: Parameter, slot: Slot, source: SliceSource | None) -> Value | Missing:
        """The first setting that applies: the model's, the slice's, the module's, the variant's, the global one."""
        place = (id(slot.part), id(source), id(parameter))  # all three live as long as this builder
        if place in self.plain:
            return self.plain[place]
        site = slot.site
        if source is not None:
            # filters see the model's own name, which differs from the result's where layers are stacked (mergekit)
            site = Site(slot.names[source.model], site.role, site.t)
        settings = self._settings(parameter, slot, source)
        # where no condition holds the search goes on outward, as in mergekit
        value = next((v for v in (resolve(setting, site) for setting in settings) if v is not MISSING), MISSING)
        default = MISSING if parameter.required else parameter.default
        found = default if isinstance(value, Missing) else convert(parameter, value)
        if all(isinstance(setting, bool | int | float | str) for setting in settings):
            self.plain[place] = found  # the same for every tensor, of which a large model has thousands
        return found

    def _settings(self, parameter: Parameter, slot: Slot, source: SliceSource | None) -> list[object]:
        """What the recipe says of a parameter, the innermost first, whether it holds for the tensor or not."""
        own = [] if source is None else [source.parameters]
        scopes = [*own, *slot.part.scopes, self.output.parameters, self.recipe.parameters]
        return [scope[parameter.name] for scope in scopes if parameter.name in scope]

    def _plan(
        self,
        slot: Slot,
        steps: tuple[Step, ...],
        chosen: tuple[Input, ...],
        base: Input | None = None,
        *,
        shape: tuple[int, ...],
        reason: str = "",
    ) -> TensorPlan:
        # the types in the files, not those that are read: an adapter on a bfloat16 base reads as float32
        stored = self._stored((*chosen, *((base,) if base else ())))
        natural = promote([t.stored_dtype for t in stored])
        # integers keep theirs: under dtype: bfloat16 mergekit wrote 1504 for a mean of counters of 1500.5
        dtype = self.dtype if self.dtype and natural in FLOATS else natural
        beside = {name: self._beside(name, chosen) for name in self.method.auxiliary} if steps else {}
        return TensorPlan(slot.name, shape, dtype, slot.site.role, steps, chosen, base, reason, beside)

    def _stored(self, chosen: tuple[Input, ...]) -> list[LazyTensor]:
        return [self.inputs.models[i.model].checkpoint[i.tensor] for i in chosen]

    def _beside(self, name: str, chosen: tuple[Input, ...]) -> tuple[Input | None, ...]:
        """What a method takes beside each model's tensor: the tensor of that name in the model's auxiliary file."""
        found: list[Input | None] = []
        for which in chosen:
            place = self.inputs.auxiliary_of(which.model, name)
            there = place is not None and which.tensor in self.inputs.sources[place].checkpoint
            found.append(Input(place, which.tensor) if place is not None and there else None)
        return tuple(found)

    def _shape(self, slot: Slot, chosen: tuple[Input, ...]) -> tuple[int, ...]:
        """The shape that all inputs have, or are cut to."""
        tensors = self._stored(chosen)
        shape = tensors[0].shape
        for tensor, which in zip(tensors, chosen, strict=True):
            # only token tables may differ, where --truncate-vocabulary cuts them
            if tensor.shape != shape:
                shape = self._smaller(slot, which, tensor.shape, shape)
        return shape

    def _smaller(self, slot: Slot, which: Input, mine: tuple[int, ...], theirs: tuple[int, ...]) -> tuple[int, ...]:
        vocabulary = mine[1:] == theirs[1:] and mine[0] == vocabulary_sizes(self.inputs.models[which.model])
        if not (self.options.truncate_vocabulary and vocabulary):
            self.inputs.problems.append(f"{slot.name}: shapes {list(mine)} and {list(theirs)} do not fit")
        return (min(mine[0], theirs[0]), *mine[1:]) if mine and theirs else mine


def selectors(exclude: object) -> list[Mapping[str, object]]:
    """The role selectors of `exclude`, which has been checked."""
    return [one for one in exclude if isinstance(one, Mapping)] if isinstance(exclude, list) else []


def _natural(name: str) -> list[tuple[int, int, str]]:
    """Sort key in which layer 10 follows layer 9."""
    # tuples, since one place may hold a number here and a word there, which do not compare
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in name.split(".")]
