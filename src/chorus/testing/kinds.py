"""The contract of a kind of model, on a small model of it and a few short recordings."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from chorus.data.utterance import Utterance
from chorus.lazy import lazy
from chorus.models.batches import as_taken
from chorus.models.kind import Kind
from chorus.models.loading import Origin, load_tokenizer, read_config
from chorus.models.registry import KINDS, kind_of
from chorus.plain import JsonObject
from chorus.testing.runtimes import check_backend
from chorus.train.backbones.choose import load_backbone
from chorus.train.backbones.protocol import ROWS, Backbone
from chorus.train.config import Augment
from chorus.train.layers import load_train_config
from chorus.train.rows import gather
from chorus.transcribe.backends.huggingface import open_backend
from chorus.transcribe.backends.protocol import Sound
from chorus.transcribe.decoding import Decoding
from chorus.transcribe.systems import open_system

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")

LONGEST = 8  # tokens of a hypothesis
HALVES = ("bfloat16", "float16")


def check_kind(directory: Path | str, manifest: Path | str) -> int:
    """Hold the kind of a model to its contract; returns how many utterances it was held on.

    Batches must not change texts, training must measure what evaluation decodes, a saved training must be the same
    again, and a base in half precision must be learnt and measured too. Give a model's directory and a manifest of some
    rows of unequal lengths that it can learn.
    """
    kind = kind_of(read_config(Origin(directory)))
    assert kind is not None, "no kind recognises the config"
    assert KINDS.get(kind.name) is kind, f'"{kind.name}" is registered under another name'
    document = {"model": {"base": str(directory)}, "data": {"train": str(manifest)}}
    config = load_train_config({**document, "task": "asr" if kind.takes_audio else "lm", "dev": {"metric": "loss"}})
    utterances = gather(config, needs_audio=kind.takes_audio).train
    assert len(utterances) > 1, "give some rows of unequal lengths"
    _limits_hold(kind, directory, utterances)
    texts = _decodes(directory, utterances) if kind.decoder else None
    if kind.backbone:
        backbone = load_backbone(config, "cpu", texts=[u.row.text for u in utterances])
        assert backbone.kind is kind
        measured = _measures(backbone, utterances)
        assert texts is None or measured == texts, f"training measures {measured}, evaluation decodes {texts}"
        loss = _learns(backbone, utterances)
        with tempfile.TemporaryDirectory() as folder:
            backbone.model.save_pretrained(folder)
            backbone.save_side_files(Path(folder))
            again = load_train_config({**document, "model": {"base": folder}})
            for dtype in HALVES:
                _takes_half({**document, "model": {"base": folder, "dtype": dtype}}, utterances)
            assert abs(_learns(load_backbone(again, "cpu"), utterances) - loss) < 1e-4, "saved, it is another model"
    return len(utterances)


def _limits_hold(kind: Kind, directory: Path | str, utterances: Sequence[Utterance]) -> None:
    origin = Origin(directory)
    limits = kind.limits(read_config(origin), load_tokenizer(kind, origin))
    assert limits.max_tokens is None or limits.max_tokens > 0
    assert limits.max_audio_s is None or limits.max_audio_s > 0
    problems = list(limits.problems([u.row for u in utterances]))
    assert not problems, problems


def _decodes(directory: Path | str, utterances: Sequence[Utterance]) -> list[str]:
    """The texts that evaluation has of a model."""
    sounds = [Sound(u.audio(), u.row, u.key()) for u in utterances]
    system, decoding = open_system(str(directory)), Decoding(max_new_tokens=LONGEST)
    check_backend(open_backend(system, decoding, "cpu"), sounds)
    backend = open_backend(system, decoding, "cpu")
    texts = [one.text for one in backend.transcribe(sounds)]
    backend.close()
    return texts


def _measures(backbone: Backbone, utterances: Sequence[Utterance]) -> list[str]:
    """The texts that training has; the model is left as it was, in whatever mode that is."""
    for training in (True, False):
        backbone.model.train(training)
        texts = backbone.transcribe(backbone.model, utterances, max_new_tokens=LONGEST)
        assert backbone.model.training is training, "transcribing leaves the model in another mode"
        assert len(texts) == len(utterances)
    return texts


def _learns(backbone: Backbone, utterances: Sequence[Utterance]) -> float:
    """The loss of all rows as one batch, which must be a number and reach some weights."""
    unfit = [why for u in utterances if (why := backbone.misfit(u))]
    assert not unfit, f"rows that fit are called unfit: {unfit}"
    assert all(isinstance(text, str) for text in backbone.warnings())
    examples = [backbone.example(u, None, Augment()) for u in utterances]
    batch = backbone.collate(examples)
    numbers = batch.pop(ROWS)
    assert numbers.tolist() == [one.row for one in examples], f"the batch's {ROWS} are not its examples'"
    backbone.model.eval()
    backbone.model.zero_grad()
    with backbone.window(backbone.model, batch):
        loss = backbone.model(**batch).loss
        loss.backward()
    assert bool(torch.isfinite(loss)), f"the loss is {loss.item()}"
    reached = [p for p in backbone.model.parameters() if p.grad is not None and bool(p.grad.abs().sum() > 0)]
    assert reached, "no weight has a gradient"
    return float(loss.item())


def _takes_half(document: JsonObject, utterances: Sequence[Utterance]) -> None:
    """Sounds are float32: whatever takes them must give them to the model in the type of its weights."""
    backbone = load_backbone(load_train_config(document), "cpu")
    texts = backbone.transcribe(backbone.model, utterances, max_new_tokens=LONGEST)
    assert len(texts) == len(utterances)
    batch = as_taken(backbone.collate([backbone.example(u, None, Augment()) for u in utterances]), backbone.model)
    batch.pop(ROWS)
    with backbone.window(backbone.model, batch), torch.no_grad():
        loss = backbone.model(**batch).loss
    assert bool(torch.isfinite(loss)), f"the loss is {loss.item()} in {backbone.model.dtype}"
