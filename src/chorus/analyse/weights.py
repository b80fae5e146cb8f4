"""What fine-tunes, adapters and merges have changed, and how their changes lie to each other: tensor by tensor.

One tensor's differences are in memory at a time; factors of adapters stay factors, and what must look at their single
values (signs) forms some rows at a time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from chorus.analyse.deltas import Named, Opened, open_all
from chorus.analyse.facts import AnalysedTensor, WeightAnalysis, WeightGroup
from chorus.analyse.sums import Sums, Wanted, empty, sums_of
from chorus.architectures.roles import Role
from chorus.checkpoints.model import OpenOptions
from chorus.checkpoints.open import Source
from chorus.extract.pair import Selection
from chorus.lazy import lazy
from chorus.progress import Progress
from chorus.runtime import threads

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")

DENSITY, ENERGY = 0.2, 0.9  # TIES keeps a fifth


def analyse_weights(
    models: Named,
    base: Source,
    *,
    merges: Named = (),
    selection: Selection | None = None,
    density: float = DENSITY,
    energy: float = ENERGY,
    spectra: bool = True,
    jobs: int | None = None,
    options: OpenOptions | None = None,
    progress: Progress = lambda done, total: None,
) -> WeightAnalysis:
    """Norms, spectra, cosines, sign conflicts and subspaces of what `models` have changed in `base`.

    `models` are whatever `chorus.open_model` takes, plans, recipes and adapters too; a mapping gives them names. Those
    that say of themselves that they are merges, and `merges`, are also projected on each of the others. `density` is
    the share of a model's values in a tensor that count as its largest, `energy` the share of a matrix's squared norm
    that its subspace holds. Without `spectra` no matrix is decomposed, which is most of the work; `jobs` are threads.

    Raises `CheckpointError` for models that do not fit the base, `UsageError` for numbers and names that make no sense.

    >>> import chorus
    >>> found = chorus.analyse_weights(["digits", "german"], "whisper-tiny", merges=["merge.yml"])  # doctest: +SKIP
    >>> found.all.pairs[0].cosine  # doctest: +SKIP
    0.1234
    """
    wanted = Wanted(density, energy, spectra, threads(jobs))
    return analyse_opened(open_all(models, base, merges, options), wanted, selection, progress)


def analyse_opened(
    opened: Opened, wanted: Wanted, selection: Selection | None = None, progress: Progress = lambda done, total: None
) -> WeightAnalysis:
    """The same of models that are open."""
    every = opened.jobs(selection or Selection())
    count = len(opened.labels)
    voters = count - opened.merges
    groups: dict[str, dict[str, Sums]] = {"all": {}, "component": {}, "kind": {}, "layer": {}}
    tensors: list[AnalysedTensor] = []
    with torch.inference_mode():
        for done, tensor in enumerate(opened.tensors(every), 1):
            found = sums_of(tensor, wanted, voters)
            role = tensor.role
            layer = layer_of(role)
            keys = {"all": "all", "component": role.component, "kind": role.kind, "layer": layer}
            for column, key in keys.items():
                # embeddings and heads stand in no layer
                if key:
                    groups[column].setdefault(key, empty(count)).add(found)
            numbers = found.facts(tensor.name, opened.labels, opened.merges)
            shape = list(tensor.origin.shape)
            tensors.append(AnalysedTensor(role.component, role.kind, layer, shape, numbers))
            progress(done, len(every))

    def told(column: dict[str, Sums]) -> list[WeightGroup]:
        return [sums.facts(name, opened.labels, opened.merges) for name, sums in column.items()]

    return WeightAnalysis(
        opened.base, opened.labels[:voters], opened.labels[voters:], wanted.density, wanted.energy,
        {column: told(dict(sorted(found.items(), key=in_order) if column == "layer" else found))
         for column, found in groups.items()},
        tensors, opened.warnings,
    )  # fmt: skip


def layer_of(role: Role) -> str:
    """The stack and the number in it: layer 0 of an audio tower is not layer 0 of a language model. Empty for none."""
    if role.layer is None:
        return ""
    return f"{role.component if role.module == 'default' else role.module} {role.layer}"


def in_order(item: tuple[str, object]) -> tuple[bool, str, int]:
    """Encoders before what hears them, layers by number."""
    stack, _, number = item[0].rpartition(" ")
    return "encoder" not in stack and "audio" not in stack, stack, int(number)
