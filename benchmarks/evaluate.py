"""Claim: `chorus evaluate` decodes sentences of mixed length 1.3 times as fast as a plain loop, and more.

    python benchmarks/evaluate.py [--rows 128] [--batch 16] [--repeats 3]

The base of the digits example is first taught to write down one to twelve digits in a row (some minutes), so that
its hypotheses are as long as what is said. The rivals take turns in one process on the same recordings, features kept
by neither: the plain loop takes them in the manifest's order, extracts, and calls transformers' `generate`; ours is the
whole of `chorus evaluate`'s decoding, audio read from disk. Texts must be the same but for ties.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from pathlib import Path
from typing import Any

import common
import numpy as np
import torch

ROOT = Path(__file__).parents[1]
BASE = ROOT / "examples" / "digits" / "base"
MANIFEST = ROOT / "examples" / "digits" / "data" / "manifest.csv"
MOST = 12


def sequences(place: Path, split: str, count: int, seed: int) -> Path:
    """Recordings of digits one after the other, by the speakers that the base knows."""
    from chorus.data.audio import write_flac
    from chorus.data.manifest import Row, read_manifest, write_manifest
    from chorus.data.utterance import Utterance

    numbers = np.random.default_rng(seed)
    known = [r for r in read_manifest(MANIFEST).rows if r.speaker in ("theo", "yweweler") and r.split == split]
    rows = []
    for i in range(count):
        chosen = [known[j] for j in numbers.integers(len(known), size=numbers.integers(1, MOST + 1))]
        pause = np.zeros(1600, np.float32)
        audio = np.concatenate([part for r in chosen for part in (Utterance(r).audio(), pause)])
        write_flac(place / split / f"{i}.flac", audio)
        text = " ".join(r.text for r in chosen)
        rows.append(Row(f"{split}/{i}.flac", text, "en", split=split, duration=len(audio) / 16_000, root=place))
    return write_manifest(rows, place / f"{split}.csv")


def teach(place: Path, manifest: Path) -> Path:
    """The base, taught to go on after the first digit."""
    import chorus

    config = chorus.load_train_config({
        "model": {"base": str(BASE)}, "data": {"train": str(manifest), "dev": []},
        "train": {"epochs": 16, "batch_size": 16, "learning_rate": 1.5e-3, "window_s": [10]},
        "output": str(place / "model"), "logs": str(place / "logs"),
    })  # fmt: skip
    return chorus.train(config).directory


def plain(model: Path, test: Any, batch: int, new_tokens: int) -> tuple[float, list[str]]:
    """Seconds and texts of a loop over batches in the manifest's order."""
    from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration, WhisperTokenizerFast

    loaded = WhisperForConditionalGeneration.from_pretrained(model, dtype=torch.float32).eval()
    tokenizer, extractor = (c.from_pretrained(model) for c in (WhisperTokenizerFast, WhisperFeatureExtractor))
    utterances, texts = list(test.utterances.values()), []
    started = time.perf_counter()
    for first in range(0, len(utterances), batch):
        audio = [u.audio() for u in utterances[first : first + batch]]
        inputs = extractor(audio, sampling_rate=16_000, return_tensors="pt").input_features
        with torch.inference_mode():
            ids = loaded.generate(input_features=inputs, language="en", task="transcribe", max_new_tokens=new_tokens)
        texts += [t.strip() for t in tokenizer.batch_decode(ids, skip_special_tokens=True)]
    return time.perf_counter() - started, texts


def ours(model: Path, test: Any, batch: int, new_tokens: int, place: Path) -> tuple[float, list[str]]:
    """Seconds and texts of the evaluation's own loop, rows written as they come."""
    from chorus.transcribe.decoding import Decoding
    from chorus.transcribe.partial import Partial
    from chorus.transcribe.request import Request
    from chorus.transcribe.systems import open_system
    from chorus.transcribe.transcriber import Transcriber, load_backend

    request = Request(open_system(str(model)), test, Decoding(batch_size=batch, max_new_tokens=new_tokens))
    backend = load_backend(request)
    partial = Partial(place, str(time.monotonic()))
    started = time.perf_counter()
    Transcriber(request, partial, backend).run(lambda done, total: None)
    seconds = time.perf_counter() - started
    partial.close()
    return seconds, [partial.rows[name, "clean"]["hypothesis"] for name in test.utterances]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=128)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    with common.workplace() as place:
        os.environ["CHORUS_CACHE"] = str(place / "cache")
        model = teach(place, sequences(place, "train", 400, seed=1))
        os.environ["CHORUS_CACHE_LIMIT"] = "0"  # features are computed by both
        from chorus.transcribe.test_sets import load_test_set

        rows = []
        for kind, most in (("mixed, 1 to 12 words", 80), ("alike, one word", 80)):
            manifest = sequences(place / kind[:5], "test", args.rows, seed=2) if most and kind[0] == "m" else MANIFEST
            test = load_test_set([manifest], limit=args.rows)
            found: dict[str, list[float]] = {"chorus": [], "plain": []}
            texts: dict[str, list[str]] = {}
            for _ in range(args.repeats):
                for name, run in (("plain", plain), ("chorus", ours)):
                    more = (place / "out",) if name == "chorus" else ()
                    seconds, texts[name] = run(model, test, args.batch, most, *more)
                    found[name].append(seconds)
            medians = {name: statistics.median(values) for name, values in found.items()}
            rows.append({
                "sentences": kind, "rows": len(test.utterances), "batch": args.batch,
                "chorus s": round(medians["chorus"], 2), "plain s": round(medians["plain"], 2),
                "times as fast": round(medians["plain"] / medians["chorus"], 2),
                "words a hypothesis": round(statistics.mean(len(t.split()) for t in texts["plain"]), 1),
                "texts that differ": sum(a != b for a, b in zip(texts["plain"], texts["chorus"], strict=True)),
            })  # fmt: skip
        common.report("evaluate", rows)


if __name__ == "__main__":
    main()
