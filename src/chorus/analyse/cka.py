"""How alike the base, its fine-tunes and their merge hear the same recordings, layer by layer.

The states behind every layer (states.py) of all models are compared position by position.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from chorus.analyse.deltas import Named, Opened, open_all
from chorus.analyse.live import AnalysedRows, asked_for, base_directory, load_live
from chorus.analyse.states import check_kind, states_of
from chorus.checkpoints.model import OpenOptions
from chorus.errors import DataError
from chorus.lazy import lazy
from chorus.linalg.similarity import LEAST, alignments
from chorus.plain import JsonObject
from chorus.progress import Progress

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = lazy("torch")

FORMAT = 1
MINIBATCH = 256


@dataclass(frozen=True)
class StateLayer:
    """One layer: CKA of all pairs [k, k], and the mean absolute difference of their states; None where undefined."""

    name: str
    examples: int
    cka: list[list[float | None]]
    difference: list[list[float]]


@dataclass(frozen=True)
class StateAnalysis:
    """Everything that `analyse_cka` found; `labels` begin with the base. `rows` are the same of each row by itself."""

    base: str
    labels: list[str]
    merges: list[str]
    utterances: int
    layers: list[StateLayer]
    by: str = "domain"
    rows: dict[str, list[StateLayer]] = field(default_factory=dict)  # none where there is but one
    warnings: list[str] = field(default_factory=list)

    def as_dict(self) -> JsonObject:
        """Plain values, for JSON."""
        return {"format": FORMAT, "kind": "cka", **asdict(self)}


def analyse_cka(
    models: Named,
    base: str | Path,
    recordings: AnalysedRows | Sequence[str],
    *,
    merges: Named = (),
    options: OpenOptions | None = None,
    progress: Progress = lambda done, total: None,
) -> StateAnalysis:
    """Centred kernel alignment of the states of `base`, models and merges, behind every layer that hears or writes.

    Of a Whisper these are its encoder's and decoder's, of a speech language model its audio encoder's and its language
    model's. `recordings` are manifests with texts, or say more of them. Models are as `analyse_weights` takes them.
    The mean absolute difference beside CKA is what merging shifts (representation bias, arXiv 2402.02705).

    Raises `CheckpointError` for models that do not fit the base or are none of these, `DataError` for rows that have
    no loss.

    >>> import chorus
    >>> found = chorus.analyse_cka(["radio"], "whisper-tiny", ["dev.csv"], merges=["merge.yml"])  # doctest: +SKIP
    >>> found.layers[0].cka[0][1]  # doctest: +SKIP
    0.998
    """
    return cka_of(open_all(models, base, merges, options), base, asked_for(recordings), progress=progress)


def cka_of(opened: Opened, base: str | Path, wanted: AnalysedRows, *, progress: Progress) -> StateAnalysis:
    """The same of models that are open."""
    live = load_live(opened, base_directory(base), wanted)
    check_kind(live.backbone, opened.base)
    every = []
    alone: list[dict[int, float]] = [{}, *({place: 1.0} for place in range(len(opened.labels)))]
    for done, weights in enumerate(alone, 1):
        live.put(weights)
        every.append(states_of(live))
        progress(done, len(alone))
    labels = [opened.base, *opened.labels]
    rows, names = list(live.batches), list(next(iter(every[0].values())))
    together = [[torch.cat([states[row][name] for row in rows]) for states in every] for name in names]
    for name, states in zip(names, together, strict=True):
        if len(states[0]) < LEAST:
            raise DataError(f"{len(states[0])} positions to compare in {name}: too few", "give more recordings")
    layers = [_layer(name, states) for name, states in zip(names, together, strict=True)]
    apart = {row: [_layer(name, [states[row][name] for states in every]) for name in names] for row in rows}
    count = len(opened.labels) - opened.merges
    return StateAnalysis(
        opened.base, labels, opened.labels[count:], live.rows, layers, wanted.by, apart if len(rows) > 1 else {},
        live.warnings,
    )  # fmt: skip


def _layer(name: str, states: Sequence[Tensor]) -> StateLayer:
    examples = len(states[0])
    # drawn once, whatever the models: neighbours of one recording in one minibatch would be alike by themselves
    order = torch.randperm(examples, generator=torch.Generator().manual_seed(0))
    parts = [part for part in torch.split(order, MINIBATCH) if len(part) >= LEAST]
    found = alignments(states, parts)
    # beside CKA, which a shift of all states alike does not change
    shifts = [[float((a - b).abs().mean()) for b in states] for a in states]
    aligned = [[None if x != x else float(x) for x in row] for row in found]
    return StateLayer(name, examples, aligned, shifts)
