"""Claim: how likely 30 labels are costs less than a fifth of asking for each by itself, and is the same to 1e-5.

    python benchmarks/label_scores.py [--rounds 3]

A Qwen2-Audio of random weights (six layers of 256, a tower of two) hears two recordings of two seconds. One forward
over the tree of labels behind the question is timed against a forward of each label with question and sound, in turns;
and against all labels of a recording as one batch, which hears the sound thirty times as well.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import common
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import sounds  # the tests' models, behind the path to them
from chorus.checkpoints.open import open_model
from chorus.models.batches import as_taken
from chorus.models.loading import Origin, load_parts
from chorus.models.recogniser import Speech
from chorus.models.registry import kind_of
from chorus.models.texts import plain_ids

WORDS = (
    "yes no up down left right on off stop go one two three four five six seven eight nine zero bed bird cat dog happy"
)
LABELS = (*WORDS.split(), "house", "marvin", "sheila", "tree", "wow")
SECONDS = 2.0
KIND = "qwen2_audio"
CLOSE = 1e-5


def opened(kind: str, place: Path) -> Any:
    """A recogniser of the kind, larger than the tests' so that time goes into layers."""
    sounds.TEXT |= {"hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 6, "num_attention_heads": 8}
    sounds.TOWER |= {"d_model": 256, "encoder_layers": 2, "encoder_attention_heads": 4, "encoder_ffn_dim": 1024}
    directory = sounds.tiny(place / kind, kind)
    model_kind = kind_of(open_model(directory).config)
    assert model_kind is not None
    assert model_kind.recogniser is not None
    return model_kind.recogniser(load_parts(model_kind, Origin(directory), "float32"), None)


def alone(recogniser: Any, speech: Speech) -> list[float]:
    """Each label by a forward of its own."""
    found = []
    for label in LABELS:
        inputs = as_taken(recogniser.inputs([speech]), recogniser.parts.model)
        found += odds(recogniser, inputs, [label])
    return found


def together(recogniser: Any, speech: Speech) -> list[float]:
    """All labels of one recording as a batch."""
    inputs = as_taken(recogniser.inputs([speech] * len(LABELS)), recogniser.parts.model)
    return odds(recogniser, inputs, LABELS)


def odds(recogniser: Any, inputs: dict[str, torch.Tensor], labels: Any) -> list[float]:
    tokens = [[*plain_ids(recogniser.tokenizer, label), recogniser.end] for label in labels]
    width = max(map(len, tokens))
    filled = torch.tensor([[*one, *[recogniser.padding] * (width - len(one))] for one in tokens])
    ids = torch.cat([inputs["input_ids"], filled], 1)
    mask = torch.cat([inputs["attention_mask"], torch.ones_like(filled)], 1)
    logits = recogniser.parts.model(**{**inputs, "input_ids": ids, "attention_mask": mask}).logits.float()
    start = inputs["input_ids"].shape[1] - 1
    return [
        float(torch.log_softmax(logits[i, start : start + len(one)], -1)[torch.arange(len(one)), one].sum())
        for i, one in enumerate(tokens)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    audio = [rng.normal(0, 0.1, round(SECONDS * 16_000)).astype(np.float32) for _ in range(2)]
    question = f"What word is spoken in the audio? Choose from: {', '.join(LABELS)}. Output only the word."
    speech = [Speech(lambda i=i: audio[i], lambda i=i: f"bench{i}", question) for i in range(len(audio))]
    took: dict[str, list[float]] = {"tree": [], "each": [], "batch": []}
    worst = 0.0
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        recogniser = opened(KIND, Path(folder))
        for _ in range(args.rounds):
            started = time.process_time()
            tree = recogniser.label_scores(recogniser.parts.model, recogniser.inputs(speech), [LABELS] * len(speech))
            took["tree"].append(time.process_time() - started)
            seen = [value for one in tree for value, _ in one.values()]
            for name, way in (("each", alone), ("batch", together)):
                started = time.process_time()
                others = [value for one in speech for value in way(recogniser, one)]
                took[name].append(time.process_time() - started)
                worst = max(worst, *(abs(a - b) for a, b in zip(seen, others, strict=True)))
    assert worst < CLOSE, worst
    medians = {name: statistics.median(values) for name, values in took.items()}
    rows = [{
        "model": KIND, "labels": len(LABELS), "tree_cpu_s": round(medians["tree"], 2),
        "each_by_itself": f"{medians['each'] / medians['tree']:.1f} x",
        "as_a_batch": f"{medians['batch'] / medians['tree']:.1f} x", "largest_difference": f"{worst:.1e}",
    }]  # fmt: skip
    common.report("label_scores", rows)


if __name__ == "__main__":
    main()
