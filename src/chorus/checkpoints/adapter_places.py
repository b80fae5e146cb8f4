"""An adapter's tensors in their places in the base: a place for each, of the right shape, or no model at all."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from chorus.architectures.layouts import inventory_of
from chorus.checkpoints.adapted import AdaptedTensor, Factors, ShiftedTensor
from chorus.checkpoints.adapter import AGAIN, LoraAdapter
from chorus.checkpoints.adapter_names import canonical
from chorus.checkpoints.lazy_tensor import Checkpoint, LazyTensor
from chorus.checkpoints.lineage import TRAINING, facts_in
from chorus.checkpoints.model import Model
from chorus.checkpoints.ties import tied_again, untied_for
from chorus.errors import CheckpointError, some
from chorus.identity import file_hash

HASHED = 1_000_000_000  # bytes of a base that are read before anything is merged
# GPT-2 and its like store linear maps [in, out], in modules of these names
CONV1D_MODELS = ("gpt2", "openai-gpt", "imagegpt", "decision_transformer", "clvp")
CONV1D_MODULES = ("c_attn", "c_proj", "c_fc", "q_attn")
# by these names alone PEFT finds what to tie: a T5's `shared` has the adapter, and what is tied to it keeps its values
EMBEDDINGS = (["embed_tokens"], ["lm_head"])


def apply_adapter(base: Model, adapter: LoraAdapter, label: str) -> Model:
    """The base with the adapter on it. Any adapter tensor that finds no place is an error.

    An embedding or a head that the adapter changes is untied from the other, as PEFT's forward has it.
    """
    changed = {canonical(name) for name in _targets(adapter)}
    # tied tensors stand outside the numbered layers: for most adapters nothing need be known of them
    if all(any(part.isdigit() for part in name.split(".")) for name in changed):
        return _Placing(base, adapter, label).model()
    untied, copies = untied_for(base, lambda name: canonical(name) in changed)
    model = _Placing(untied, adapter, label).model()
    if adapter.config.get("ensure_weight_tying") and any(name.split(".")[-2:-1] in EMBEDDINGS for name in changed):
        # PEFT's word that both have the adapter, though one may be saved; where both are, each is what was trained
        tensors = dict(model.checkpoint.items())
        for name, source in copies.items():
            if not changed >= {canonical(name), canonical(source)}:
                tensors[name] = tensors[source] = tensors[source if canonical(source) in changed else name]
        model = replace(model, checkpoint=Checkpoint(tensors, label))
    return tied_again(model, base, copies)


def _targets(adapter: LoraAdapter) -> list[str]:
    """The tensors that an adapter changes or replaces, by its own names."""
    biases = [f"{module}.bias" for module, factors in adapter.low_rank.items() if factors.bias is not None]
    return [*adapter.replaced, *(f"{module}.weight" for module in adapter.low_rank), *biases]


class _Placing:
    def __init__(self, base: Model, adapter: LoraAdapter, label: str) -> None:
        self.base, self.adapter, self.label = base, adapter, label
        self.where = f"{adapter.label}/{adapter.file.name}"
        self.places: dict[str, list[str]] = {}
        for name in base.checkpoint:
            self.places.setdefault(canonical(name), []).append(name)
        self.tensors: dict[str, LazyTensor] = dict(base.checkpoint.items())
        self.taken: dict[tuple[str, bool], str] = {}  # (place, whether of factors) -> what stands there
        self.homeless: list[str] = []

    def model(self) -> Model:
        for name, tensor in self.adapter.replaced.items():
            if target := self._place(name):
                self._check_replacement(name, tensor, self.tensors[target])
                self.tensors[target] = tensor
        # on what the adapter has replaced, where it saved the layer too
        for module, factors in self.adapter.low_rank.items():
            if target := self._place(f"{module}.weight", factors=True):
                factors.transposed = not factors.embedding and self._is_transposed(module)
                self._check_factors(self.tensors[target], factors)
                self.tensors[target] = AdaptedTensor(self.tensors[target], factors)
            if factors.bias is not None and (target := self._place(f"{module}.bias", factors=True)):
                self._check_replacement(f"{module}.lora_B.bias", factors.bias, self.tensors[target])
                self.tensors[target] = ShiftedTensor(self.tensors[target], factors.bias, factors.scale)
        self._refuse_homeless()
        self._refuse_missing()
        warnings = [*self.base.warnings, *self._layers_left_out(), *self._other_class(), *self._other_content()]
        return replace(self.base, label=self.label, checkpoint=Checkpoint(self.tensors, self.label), warnings=warnings)

    def _place(self, name: str, *, factors: bool = False) -> str | None:
        # as it stands first: what `canonical` leaves out may be all that tells two tensors apart
        found = [name] if name in self.tensors else self.places.get(canonical(name)) or self._respelled(name)
        if len(found) != 1:  # two places are as bad as none
            self.homeless.append(name)
            return None
        known = self.taken.setdefault((found[0], factors), name)
        if known != name:
            raise CheckpointError(
                f"{self.where}: {name} and {known} are both for {found[0]}",
                "save the adapter again, each module once",
            )
        return found[0]

    def _respelled(self, name: str) -> list[str]:
        """What the base's file calls a tensor that the module tree, and so the adapter, calls otherwise."""
        if not self.base.spelling:  # an architecture that nobody knows
            return []
        own = inventory_of(self.base.config, self.base.checkpoint).place(name)
        return [self.base.spelling[own]] if own in self.base.spelling else []

    def _other_content(self) -> list[str]:
        """Names and shapes of two bases are often the same: a training of ours has noted what its base's files were."""
        facts = facts_in(self.adapter.file.parent)
        noted = facts.get("base") if facts.get("kind") == TRAINING else None
        files = noted.items() if isinstance(noted, dict) else ()
        known = [(self.base.paths[name], told) for name, told in files if name in self.base.paths]
        # of larger ones a plan would take as long as a merge
        if not known or sum(path.stat().st_size for path, _ in known) > HASHED:
            return []
        other = [path.name for path, told in known if file_hash(path) != told]
        return [
            f"{self.adapter.label} was trained on another base than {self.base.label}: its {name} has another content"
            for name in other[:1]
        ]

    def _other_class(self) -> list[str]:
        """Names and shapes of Llama, Qwen2 and Mistral may be the same: where PEFT has noted the class, it is told."""
        noted = self.adapter.config.get("auto_mapping")
        library = str(noted.get("parent_library")) if isinstance(noted, dict) else ""
        kind, mine = library.removeprefix("transformers.models.").split(".")[0], str(self.base.config.get("model_type"))
        if not library.startswith("transformers.models.") or mine.replace("-", "_").startswith(kind):
            return []
        return [f"{self.adapter.label} was trained on a model of the type {kind[:80]}, {self.base.label} is of {mine}"]

    def _layers_left_out(self) -> list[str]:
        """Layers without factors for what others have them for, where the config chooses no layers: half a file."""
        config = self.adapter.config
        targets = config.get("target_modules")
        chosen = any(config.get(key) for key in ("layers_to_transform", "exclude_modules"))
        if chosen or not isinstance(targets, list) or not all(str(t).replace("_", "a").isidentifier() for t in targets):
            return []
        there = {place for place, factors in self.taken if factors and place.endswith(".weight")}
        kinds = {_numberless(place) for place in there}
        lacking = [n for n in self.base.checkpoint if n not in there and _numberless(n) in kinds]
        if not lacking:
            return []
        return [
            f"{self.where} has no factors for {len(lacking)} modules ({lacking[0].removesuffix('.weight')}, ...), "
            "though for others of their kind in other layers: is the file whole?"
        ]

    def _is_transposed(self, module: str) -> bool:
        """Whether a module's weight is stored [in, out], by its class: PEFT mends the config's word by that."""
        if self.base.config.get("model_type") in CONV1D_MODELS:
            return module.rpartition(".")[2] in CONV1D_MODULES
        # only classes that come with the model are not known here
        return self.adapter.settings.transposed and "auto_map" in self.base.config

    def _check_factors(self, weight: LazyTensor, factors: Factors) -> None:
        assert factors.a is not None
        assert factors.b is not None
        rows, columns = factors.b.shape[0], math.prod(factors.a.shape[1:])
        outputs = rows
        if factors.embedding or factors.transposed:
            rows, columns = columns, rows
        wanted = (weight.shape[0], math.prod(weight.shape[1:])) if len(weight.shape) > 1 else weight.shape
        kernel = weight.shape[2:] if self.adapter.settings.adaptive else factors.a.shape[2:]
        if (rows, columns) != wanted or kernel != weight.shape[2:]:
            have = (rows, *factors.a.shape[1:]) if kernel else (rows, columns)
            raise self._other_base(factors.module, have, weight.shape)
        if factors.magnitude is not None and math.prod(factors.magnitude.shape) != outputs:
            raise self._other_base(f"{factors.module}.lora_magnitude_vector", factors.magnitude.shape, (outputs,))

    def _check_replacement(self, name: str, tensor: LazyTensor, old: LazyTensor) -> None:
        if tensor.shape != old.shape:
            raise self._other_base(name, tensor.shape, old.shape)
        numbers = [t.stored_dtype.startswith(("float", "bfloat")) for t in (tensor, old)]
        if numbers[0] != numbers[1]:
            raise CheckpointError(
                f"{self.where}: {name} holds {tensor.dtype}, the base {old.dtype}",
                AGAIN,
            )

    def _other_base(self, name: str, have: tuple[int, ...], want: tuple[int, ...]) -> CheckpointError:
        resized = len(have) == len(want) == 2 and have[0] != want[0] and have[1] == want[1]
        if resized and name.endswith((".weight", "embed_tokens", "lm_head")):
            remedy = f"it was trained after the vocabulary had {have[0]} entries: resize the base so, and name that"
        else:
            remedy = f"this adapter belongs to another base: {self._named()}"
        return CheckpointError(
            f"{self.where}: {name} is for a tensor of shape {list(have)}, the base {self.base.label} has {list(want)}",
            remedy,
        )

    def _named(self) -> str:
        return str(self.adapter.config.get("base_model_name_or_path") or "unnamed")[:200]

    def _refuse_homeless(self) -> None:
        # never left out with a warning: a model with half of an adapter on it looks like any other
        if self.homeless:
            raise CheckpointError(
                f"{self.where}: {len(self.homeless)} tensors have no place in the base: {some(self.homeless, 5)}",
                f"its config names the base {self._named()}, this is {self.base.label}",
            )

    def _refuse_missing(self) -> None:
        """What `modules_to_save` names must be in the file: without it the base's untrained tensors would stay."""
        replaced = {place for place, factors in self.taken if not factors}
        for entry in self.adapter.settings.saved:
            named = [name for name in self.base.checkpoint if any(m.endswith(entry) for m in _modules(name))]
            if named and not replaced.intersection(named):
                raise CheckpointError(
                    f"{self.where}: no tensor of {entry}, which modules_to_save names",
                    AGAIN,
                )
            halves = {m for n in named if n in replaced for m in _modules(n) if m.endswith(entry)}
            for name in named:
                if name not in replaced and any(m in halves for m in _modules(name)):
                    raise CheckpointError(
                        f"{self.where}: {name} is missing, though modules_to_save names {entry}",
                        AGAIN,
                    )


def _numberless(name: str) -> str:
    """A tensor's name with a sign in the place of every layer's number."""
    return ".".join("#" if part.isdigit() else part for part in name.split("."))


def _modules(name: str) -> Iterator[str]:
    """The modules in which a tensor stands, outermost first."""
    parts = name.split(".")
    return (".".join(parts[:i]) for i in range(1, len(parts)))
