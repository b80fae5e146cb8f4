"""How alike the base, its fine-tunes and their merge hear the same recordings, layer by layer.

States are taken behind every layer while the model is given recordings and their texts: of an encoder at some frames of
the sound itself (the silence that pads it would be most of all, and alike in everything), of a decoder at tokens that
have a loss.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from chorus.analyse.deltas import Named, Opened, open_all
from chorus.analyse.live import AnalysedRows, GivenBatch, LiveModel, asked_for, base_directory, load_live
from chorus.checkpoints.model import OpenOptions
from chorus.errors import CheckpointError, DataError
from chorus.lazy import lazy
from chorus.linalg.similarity import LEAST, alignments
from chorus.plain import JsonObject
from chorus.progress import Progress
from chorus.train.backbones.protocol import IGNORED

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = lazy("torch")

FORMAT = 1
POSITIONS = 8  # of an utterance: neighbours say much the same
MINIBATCH = 256
FRAMES_PER_SECOND = 50  # of Whisper's encoder
KINDS = ("whisper",)


@dataclass(frozen=True)
class StateLayer:
    """One layer: CKA of all pairs [k, k], and the mean absolute difference of their states; None where undefined."""

    name: str
    examples: int
    cka: list[list[float | None]]
    difference: list[list[float]]


@dataclass(frozen=True)
class StateAnalysis:
    """Everything that `analyse_cka` found; `labels` begin with the base."""

    base: str
    labels: list[str]
    merges: list[str]
    utterances: int
    layers: list[StateLayer]
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
    """Centred kernel alignment of the states of `base`, models and merges behind every layer of a Whisper.

    `recordings` are manifests with texts, or say more of them. Models are as `analyse_weights` takes them. The mean
    absolute difference beside CKA is what merging shifts (representation bias, arXiv 2402.02705).

    Raises `CheckpointError` for models that do not fit the base or are no Whisper, `DataError` for rows without a loss.

    >>> import chorus
    >>> found = chorus.analyse_cka(["radio"], "whisper-tiny", ["dev.csv"], merges=["merge.yml"])  # doctest: +SKIP
    >>> found.layers[0].cka[0][1]  # doctest: +SKIP
    0.998
    """
    return cka_of(open_all(models, base, merges, options), base, asked_for(recordings), progress=progress)


def cka_of(opened: Opened, base: str | Path, wanted: AnalysedRows, *, progress: Progress) -> StateAnalysis:
    """The same of models that are open."""
    live = load_live(opened, base_directory(base), wanted)
    if live.backbone.kind.name not in KINDS:
        raise CheckpointError(f"{opened.base}: states by layer are of Whisper's", "name a Whisper and its fine-tunes")
    every = []
    alone: list[dict[int, float]] = [{}, *({place: 1.0} for place in range(len(opened.labels)))]
    for done, weights in enumerate(alone, 1):
        live.put(weights)
        every.append(states_of(live))
        progress(done, len(alone))
    labels = [opened.base, *opened.labels]
    layers = [_layer(name, [states[name] for states in every]) for name in every[0]]
    count = len(opened.labels) - opened.merges
    return StateAnalysis(opened.base, labels, opened.labels[count:], live.rows, layers, live.warnings)


def states_of(live: LiveModel) -> dict[str, Tensor]:
    """The states [positions of all utterances, d] behind each layer, in one order of utterances for every model."""
    found: dict[str, list[Tensor]] = {}
    with live.listening():
        for given in (one for batches in live.batches.values() for one in batches):
            # of one batch at a time: all frames of all layers would be gigabytes
            with _hooked(live) as caught, live.backbone.window(live.backbone.model, given.batch):
                live.backbone.model(**given.batch)
            for name, states in caught.items():
                kept = [states[i, where].float().cpu() for i, where in enumerate(_positions(name, given))]
                found.setdefault(name, []).append(torch.cat(kept))
    return {name: torch.cat(parts) for name, parts in found.items()}


@contextmanager
def _hooked(live: LiveModel) -> Iterator[dict[str, Tensor]]:
    """What every layer of both stacks gives out in one forward pass."""
    caught: dict[str, Tensor] = {}

    def keep(name: str, _module: object, _given: object, out: Tensor | tuple[Tensor, ...]) -> None:
        caught[name] = out if isinstance(out, torch.Tensor) else out[0]

    model = live.backbone.model
    stacks = {"encoder": model.get_encoder(), "decoder": model.get_decoder()}
    handles = [
        layer.register_forward_hook(partial(keep, f"{stack} {i}"))
        for stack, module in stacks.items() for i, layer in enumerate(module.layers)
    ]  # fmt: skip
    # another model's weights go into these very layers next
    try:
        yield caught
    finally:
        for handle in handles:
            handle.remove()


def _positions(name: str, given: GivenBatch) -> list[Tensor]:
    """Of each utterance of a batch some positions, evenly from the first to the last that say something."""
    if name.startswith("encoder"):
        columns = given.batch["input_features"].shape[-1] // 2
        return [_spread(torch.arange(max(1, min(columns, int(s * FRAMES_PER_SECOND))))) for s in given.seconds]
    return [_spread(torch.nonzero(row != IGNORED)[:, 0]) for row in given.batch["labels"].cpu()]


def _spread(places: Tensor) -> Tensor:
    """At most `POSITIONS` of them.

    >>> _spread(torch.arange(16)).tolist()
    [0, 2, 4, 6, 8, 10, 12, 14]
    """
    count = min(POSITIONS, len(places))
    return places[torch.arange(count) * len(places) // max(1, count)]


def _layer(name: str, states: Sequence[Tensor]) -> StateLayer:
    examples = len(states[0])
    if examples < LEAST:
        raise DataError(f"{examples} positions to compare in {name}: too few", "give more recordings")
    # drawn once, whatever the models: neighbours of one recording in one minibatch would be alike by themselves
    order = torch.randperm(examples, generator=torch.Generator().manual_seed(0))
    parts = [part for part in torch.split(order, MINIBATCH) if len(part) >= LEAST]
    found = alignments(states, parts)
    # beside CKA, which a shift of all states alike does not change
    shifts = [[float((a - b).abs().mean()) for b in states] for a in states]
    aligned = [[None if x != x else float(x) for x in row] for row in found]
    return StateLayer(name, examples, aligned, shifts)
