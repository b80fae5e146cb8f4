"""The states behind every layer of a loaded model at some positions of each recording, the same ones in every model.

Of what hears, at frames of the sound itself: the silence that pads it would be most of all, and alike in everything.
Of what writes, at the positions from which a token of the answer is learnt: a question is the same in every row.

Whisper                     encoder [B, T, d], decoder [B, L, d], whose position i writes label i
Qwen2-Audio, Voxtral        encoder [B, T, d], language model [B, L, d], whose position i writes label i + 1
Qwen2.5-Omni, Qwen3-ASR     encoder [sum of T_i, d]: the sounds in chunks one behind the other, without any padding
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from chorus.analyse.live import GivenBatch, LiveModel
from chorus.errors import CheckpointError
from chorus.lazy import lazy
from chorus.models.features import FRAMES_PER_SECOND
from chorus.train.backbones.protocol import IGNORED, Backbone

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = lazy("torch")

POSITIONS = 8  # of an utterance: neighbours say much the same
WHISPER = "whisper"
# kind -> how often an encoder's convolutions halve a chunk of columns, where it packs sounds one behind the other
HALVINGS = {"speech_llm": 1, "qwen3_asr": 3}
KINDS = (WHISPER, "voxtral", *HALVINGS)
HEARS = "encoder"
MASKS = ("feature_attention_mask", "input_features_mask")  # models' words for which columns hold sound


def check_kind(backbone: Backbone, label: str) -> None:
    """`CheckpointError` for a model that does not hear and write."""
    if backbone.kind.name not in KINDS:
        told = "Whisper's and speech language models'"
        raise CheckpointError(f"{label}: states by layer are of {told}", "name one of these, and its fine-tunes")


def states_of(live: LiveModel) -> dict[str, dict[str, Tensor]]:
    """By row of the tables, the states [positions of its utterances, d] behind each layer, in one order every time."""
    found: dict[str, dict[str, Tensor]] = {}
    with live.listening():
        for row, batches in live.batches.items():
            # of one batch at a time: all frames of all layers would be gigabytes
            parts = [_of_batch(live, given) for given in batches]
            found[row] = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    return found


def _of_batch(live: LiveModel, given: GivenBatch) -> dict[str, Tensor]:
    with _hooked(live.backbone) as caught, live.backbone.window(live.backbone.model, given.batch):
        live.backbone.model(**given.batch)
    found = {}
    for name, states in caught.items():
        own = _heard(live.backbone, states, given) if name.startswith(HEARS) else _written(live, states, given)
        found[name] = torch.cat([part.float().cpu() for part in own])
    return found


@contextmanager
def _hooked(backbone: Backbone) -> Iterator[dict[str, Tensor]]:
    """What every layer of both stacks gives out in one forward pass, by the names that layers have elsewhere."""
    caught: dict[str, Tensor] = {}

    def keep(name: str, _module: object, _given: object, out: Tensor | tuple[Tensor, ...]) -> None:
        caught[name] = out if isinstance(out, torch.Tensor) else out[0]

    handles = [
        layer.register_forward_hook(partial(keep, f"{stack} {i}"))
        for stack, module in stacks(backbone).items() for i, layer in enumerate(module.layers)
    ]  # fmt: skip
    # another model's weights go into these very layers next
    try:
        yield caught
    finally:
        for handle in handles:
            handle.remove()


def stacks(backbone: Backbone) -> dict[str, Any]:
    """What hears, and what writes."""
    model = backbone.model
    if backbone.kind.name == WHISPER:
        return {HEARS: model.get_encoder(), "decoder": model.get_decoder()}
    return {HEARS: model.get_encoder(modality="audio"), "language_model": model.get_decoder()}


def _heard(backbone: Backbone, states: Tensor, given: GivenBatch) -> list[Tensor]:
    """Of each utterance some frames, evenly from the first to the last of its sound."""
    columns, width = _columns(given)
    if states.dim() == 3:
        counts = [max(1, count * states.shape[1] // width) for count in columns]
        own = [one[:count] for one, count in zip(states, counts, strict=True)]
    else:
        chunk = 2 * int(stacks(backbone)[HEARS].config.n_window)
        own = list(torch.split(states, [frames_of(count, chunk, HALVINGS[backbone.kind.name]) for count in columns]))
    return [one[spread(len(one))] for one in own]


def _columns(given: GivenBatch) -> tuple[list[int], int]:
    """How many of the features' columns hold the sound of each utterance, and how many there are."""
    features = given.batch["input_features"]
    mask = next((given.batch[name] for name in MASKS if name in given.batch), None)
    if mask is not None:
        return mask.sum(1).tolist(), features.shape[-1]
    return [min(features.shape[-1], int(s * FRAMES_PER_SECOND)) for s in given.seconds], features.shape[-1]


def frames_of(columns: int, chunk: int, halvings: int) -> int:
    """The frames that convolutions of stride two leave of so many columns, which they take in chunks.

    >>> frames_of(70, 100, 1), frames_of(260, 100, 3)
    (35, 34)
    """

    def halved(count: int) -> int:
        for _ in range(halvings):
            count = -(-count // 2)
        return count

    whole, rest = divmod(columns, chunk)
    return whole * halved(chunk) + halved(rest)


def _written(live: LiveModel, states: Tensor, given: GivenBatch) -> list[Tensor]:
    """Of each utterance some positions, evenly from the one that writes the first token of the answer to the last."""
    labels = given.batch["labels"]
    # Whisper puts its start before them by itself, others have them where they stand
    before = 0 if live.backbone.kind.name == WHISPER else 1
    learnt = [torch.nonzero(row != IGNORED)[:, 0] - before for row in labels]
    return [one[places[spread(len(places))]] for one, places in zip(states, learnt, strict=True)]


def spread(count: int) -> Tensor:
    """At most `POSITIONS` of so many.

    >>> spread(16).tolist()
    [0, 2, 4, 6, 8, 10, 12, 14]
    """
    few = min(POSITIONS, count)
    return torch.arange(few) * count // max(1, few)
