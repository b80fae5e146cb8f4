"""A merge as a plan: every output tensor with its inputs, steps, parameters, bytes and place, no weight read.

A plan is a checkpoint: `plan[name]` computes a tensor of its only output, `plan.model(variant)` gives an output as
the model that the merge would write.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from chorus.cache import Cache
from chorus.checkpoints.beside import Beside
from chorus.checkpoints.dtypes import itemsize
from chorus.checkpoints.lazy_tensor import LazyTensor
from chorus.checkpoints.lineage import TRAINING, Lineage, facts_in, joined, license_text, lineage_of
from chorus.checkpoints.model import PROCESSOR_FILES, Model
from chorus.checkpoints.public_recipe import public_document
from chorus.checkpoints.reference import Reference
from chorus.checkpoints.shards import Shard, lay_out
from chorus.checkpoints.sidecar import VOCABULARIES
from chorus.errors import UsageError
from chorus.identity import fingerprint
from chorus.merge.arithmetic.merged_tensor import merged_checkpoint
from chorus.merge.arithmetic.session import Session
from chorus.merge.arithmetic.tensor_plan import TensorPlan
from chorus.merge.options import Options
from chorus.merge.recipes.loading import LoadedRecipe
from chorus.runtime import threads


@dataclass
class Variant:
    """One output model: the recipe's only one, or one of its `outputs`. `name` is its directory below the output."""

    name: str
    method: str
    tensors: dict[str, TensorPlan]
    config: dict[str, Any]
    generation: dict[str, Any] | None = None
    shards: list[Shard] = field(default_factory=list)

    @property
    def nbytes(self) -> int:
        return sum(t.nbytes for t in self.tensors.values())

    def lay_out(self, max_shard_bytes: int) -> None:
        """Assign tensors to files, in the order of their names, none above the limit where it can be kept."""
        self.shards = lay_out([(t.name, t.dtype, t.shape) for t in self.tensors.values()], max_shard_bytes)


@dataclass(frozen=True)
class Footprint:
    """What the memory depends on: the most inputs that a tensor has, bytes of what cannot be cut, and of the cache."""

    widest: int
    whole_bytes: int
    cache_bytes: int


@dataclass(eq=False)
class Plan(Mapping[str, LazyTensor]):
    """What a merge will do. `models` and `references` stand in one order; `auxiliary` come after them for inputs."""

    recipe: LoadedRecipe
    options: Options
    references: list[Reference]
    models: list[Model]
    base: int | None
    donor: int
    tokenizer: int
    variants: list[Variant]
    seed: int
    footprint: Footprint
    auxiliary: list[Model] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    generation_differences: list[str] = field(default_factory=list)
    beside: Beside = field(default_factory=Beside)  # the files that go with the result, and those that do not
    facts: dict[str, object] = field(default_factory=dict)  # what its chorus.json says besides

    @property
    def label(self) -> str:
        """What messages call it: the recipe's name."""
        return Path(self.recipe.source).stem

    @property
    def sources(self) -> list[Model]:
        """Whatever tensors are read from, by the index that an `Input` has."""
        return [*self.models, *self.auxiliary]

    def tensors(self) -> Iterator[TensorPlan]:
        """The tensors of all variants."""
        for variant in self.variants:
            yield from variant.tensors.values()

    def variant(self, name: str | None = None) -> Variant:
        """An output by its name, or the only one. `UsageError` where there is none or several."""
        names = [v.name for v in self.variants]
        if name is None and len(names) > 1:
            raise UsageError(
                f"{self.label} has several outputs: {', '.join(names)}",
                f"name one: {self.label}.yml:{names[0]}, or plan.model({names[0]!r})",
            )
        if name is not None and name not in names:
            known = f"it has {', '.join(filter(None, names))}" if any(names) else "its only one has no name"
            raise UsageError(f'{self.label} has no output "{name}"; {known}')
        return self.variants[0 if name is None else names.index(name)]

    def model(self, variant: str | None = None) -> Model:
        """An output as a model: the merged tensors, each computed when it is read, with the donor's side files.

        The same object at every call, so that an adapter on it and it itself are known to share their tensors.
        """
        chosen = self.variant(variant)
        if chosen.name not in self._models:
            self._models[chosen.name] = self._model(chosen)
        return self._models[chosen.name]

    def _model(self, variant: Variant) -> Model:
        donor, tokenizer = self.models[self.donor], self.models[self.tokenizer]
        label = variant.name or self.label
        # where features and tokens are looked for, whichever model or adapter gives them
        carried = self.beside.carried
        processor = next((path.parent for name, path in carried.items() if name in PROCESSOR_FILES), None)
        words = next((path.parent for name, path in carried.items() if name in VOCABULARIES), None)
        return Model(
            label=label,
            checkpoint=merged_checkpoint(self.session, variant.tensors, label),
            config=variant.config,
            directory=processor or donor.directory,
            tokenizer_directory=words or tokenizer.tokenizer_directory or tokenizer.directory,
            beside=carried,
            generation=variant.generation,
            method=variant.method,
            recipe=public_document(self.recipe.document, self.references),
            made_of=self.licences,
            hub_ids=tuple(self.hub_ids),
            reads=tuple(self.places),
            trained_on=self.trained_on,
            # asked for late, as it needs the fingerprints of all inputs
            identify=lambda: self.fingerprint(variant.name),
        )

    @property
    def places(self) -> list[Path]:
        """Every file and directory that it is made from, the recipe's own among them."""
        recipe = Path(self.recipe.source)
        return [place for model in self.sources for place in model.places] + [recipe] * recipe.is_file()

    @cached_property
    def licences(self) -> dict[str, str | None]:
        """The licence that each model's card states, by name; of a merge those of the models that went into it."""
        found: dict[str, str | None] = {}
        for reference, model in zip(self.references, self.models, strict=True):
            stated = model.made_of or {reference.name: license_text(model)}
            for name, licence in stated.items():
                # names are told apart within a recipe, and those of a recipe in it may be others'
                known = name in found and found[name] != licence
                found[f"{name} of {reference.name}" if known else name] = licence
        return found

    @property
    def hub_ids(self) -> list[str]:
        """The hub's models that go into it, for cards: what lies elsewhere nobody else finds."""
        each = (
            model.hub_ids if model.method else reference.hub_ids
            for reference, model in zip(self.references, self.models, strict=True)
        )
        return list(dict.fromkeys(one for ids in each for one in ids))

    @cached_property
    def trained_on(self) -> Lineage:
        """What the sources learnt from; of the base only where it is a merge itself, else it is what all began with."""
        every = [
            {} if i == self.base and facts_in(model.directory).get("kind") == TRAINING else lineage_of(model)
            for i, model in enumerate(self.sources)
        ]
        return joined(every)

    def fingerprint(self, variant: str | None = None) -> str:
        """What an output depends on, by content: its tensors' plans, the models that they read, whose side files."""
        chosen = self.variant(variant)
        return fingerprint(
            # frozen and made of plain values: a plan's repr is all of it
            tensors=[repr(t) for t in chosen.tensors.values()], config=chosen.config, generation=chosen.generation,
            seed=self.seed, donor=self.donor, tokenizer=self.tokenizer,
            models=[model.fingerprint() for model in self.sources],
        )  # fmt: skip

    @cached_property
    def session(self) -> Session:
        """What computing its tensors needs; made once, so that readers of one plan share the cache."""
        return Session(
            self.sources,
            seed=self.seed,
            device=self.options.device,
            allow_nonfinite=self.options.allow_nonfinite,
            block_values=self.options.block_values,
            threads=self.jobs,
            cache=self._cache(),
        )

    def _cache(self) -> Cache | None:
        """The cache, where the plan has a use for it and it is not turned off."""
        cache = Cache(needed=self.cache_bytes) if self.options.reuse and self.cache_bytes else None
        return cache if cache is not None and cache.limit else None

    @property
    def bytes_to_read(self) -> int:
        """Bytes of all input tensors that are used, each counted once."""
        used = [self.sources[i.model].checkpoint[i.tensor] for t in self.tensors() for i in t.all_inputs]
        # by identity: a tied copy that the result has by itself is the same tensor as its source
        return sum(map(stored_bytes, {id(tensor): tensor for tensor in used}.values()))

    def bytes_of(self, model: int) -> int:
        """Bytes of all tensors of a model, as stored."""
        return sum(map(stored_bytes, self.models[model].checkpoint.values()))

    @property
    def bytes_to_write(self) -> int:
        return sum(v.nbytes for v in self.variants)

    @property
    def jobs(self) -> int:
        """Threads: as asked for, else one a core up to eight, as far as the memory budget carries them."""
        wanted = threads(self.options.jobs)
        return max(1, min(wanted, self.options.memory_budget_bytes // max(1, self.bytes_per_job)))

    @property
    def bytes_per_job(self) -> int:
        """Working memory of one thread: a float32 block of every input, and of what a method makes of them."""
        block = self.options.block_values * 4 * (2 * self.footprint.widest + 4)
        return max(block, self.footprint.whole_bytes)

    @property
    def cache_bytes(self) -> int:
        """What the merge would like to keep in the cache: bases and spectra, at most."""
        return self.footprint.cache_bytes

    def __getitem__(self, name: str) -> LazyTensor:
        return self._only[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.variant().tensors)

    def __len__(self) -> int:
        return len(self.variant().tensors)

    def __bool__(self) -> bool:
        return True  # also where it has several outputs, and so is no mapping

    __hash__ = object.__hash__  # which a class that says what is equal would lose

    def __eq__(self, other: object) -> bool:
        return self is other  # a mapping's own comparison would compute every tensor

    @cached_property
    def _models(self) -> dict[str, Model]:
        return {}

    @cached_property
    def _only(self) -> Mapping[str, LazyTensor]:
        return self.model().checkpoint


def stored_bytes(tensor: LazyTensor) -> int:
    """Bytes of a tensor as it is stored."""
    return math.prod(tensor.shape) * itemsize(tensor.stored_dtype)
