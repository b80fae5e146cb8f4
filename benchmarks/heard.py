"""Claim: what is exported hears what its source hears; where a runtime hears otherwise, it is the runtime's front end.

    python benchmarks/heard.py MODEL... --data MANIFEST [--data MANIFEST] [--where language=en] [--rows 100]

Each MODEL is a Whisper. Every export is heard in its own runtime, greedily and without timestamps, and its transcripts
are held against transformers' of the source, letter for letter; the difference of word error rates has a 95 % interval
(10,000 resamples of recordings). faster-whisper and openai-whisper put zeros behind a short sound: so their decoders
are asked once more, with the spectra that transformers makes of it.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import common
import numpy as np
import torch

import chorus
from chorus.evaluate.run import evaluate
from chorus.models.generation import generation_config
from chorus.transcribe.decoding import Decoding
from chorus.transcribe.systems import open_system
from chorus.transcribe.test_sets import TestSet, load_test_set

# format, number type, backend, and what it computes in
RUNS = [
    ("ggml", "f16", "whisper.cpp", "float32"), ("ggml", "q8_0", "whisper.cpp", "float32"),
    ("ggml", "q5_0", "whisper.cpp", "float32"), ("ctranslate2", "float32", "faster-whisper", "float32"),
    ("ctranslate2", "int8", "faster-whisper", "int8"), ("openai", "float32", "openai-whisper", "float32"),
    ("onnx", "float32", "onnxruntime", "float32"), ("onnx", "int8", "onnxruntime", "int8"),
]  # fmt: skip
RESAMPLES = 10_000
Heard = Callable[[np.ndarray], str]


def by_ctranslate2(place: Path, kind: str, processor: Any, prompt: list[int]) -> Heard:
    """CTranslate2 on a spectrum [1, mels, frames]."""
    import ctranslate2

    model = ctranslate2.models.Whisper(str(place), compute_type=kind)

    def heard(spectrum: np.ndarray) -> str:
        view = ctranslate2.StorageView.from_array(spectrum)
        found = model.generate(view, [prompt], beam_size=1)[0].sequences_ids[0]
        return str(processor.tokenizer.decode(found, skip_special_tokens=True))

    return heard


def by_openai(place: Path, language: str, suppressed: Sequence[int]) -> Heard:
    """openai-whisper's `decode` on a spectrum."""
    import whisper

    model = whisper.load_model(str(place), device="cpu")
    options = whisper.DecodingOptions(
        language=language, without_timestamps=True, fp16=False, temperature=0.0, suppress_tokens=list(suppressed)
    )
    return lambda spectrum: str(whisper.decode(model, torch.from_numpy(spectrum[0]), options).text)


def on_its_own_spectra(source: str, place: Path, to: str, kind: str, test: TestSet, language: str) -> list[str]:
    """What a runtime's decoder writes of the spectra that the source's front end makes."""
    from transformers import WhisperProcessor

    processor = WhisperProcessor.from_pretrained(source)
    settings = generation_config(chorus.open_model(source))
    if to == "openai":
        heard = by_openai(place, language, settings.get("suppress_tokens") or [])
    else:
        # a model of English alone has no tokens of languages and tasks
        asked = {"language": language, "task": "transcribe"} if settings.get("is_multilingual") else {}
        known = [number for _, number in processor.get_decoder_prompt_ids(**asked)]
        start = processor.tokenizer.convert_tokens_to_ids("<|startoftranscript|>")
        heard = by_ctranslate2(place, kind, processor, [start, *known])
    sounds = [one.audio() for one in test.utterances.values()]
    return [heard(processor(sound, sampling_rate=16000, return_tensors="np").input_features) for sound in sounds]


def row_of(name: str, test: str, runtime: str, ours: Any, source: Any) -> dict[str, object]:
    """How an evaluation's transcripts and errors stand to the source's."""
    pairs = list(zip(ours, source, strict=True))
    equal = sum(same(a["hypothesis"], b["hypothesis"]) for a, b in pairs)
    more = np.array([a["errors"] - b["errors"] for a, b in pairs], float)
    words = np.array([b["length"] for _, b in pairs], float)
    drawn = np.random.default_rng(0).integers(0, len(pairs), (RESAMPLES, len(pairs)))
    low, high = np.percentile(100 * more[drawn].sum(1) / words[drawn].sum(1), [2.5, 97.5])
    return {
        "model": name, "recordings": f"{test} ({len(pairs)})", "runtime": runtime, "equal": equal,
        "wer": round(float(100 * sum(a["errors"] for a, _ in pairs) / words.sum()), 1),
        "difference": f"{100 * more.sum() / words.sum():+.1f} [{low:.1f}, {high:.1f}]",
    }  # fmt: skip


def same(one: str, other: str) -> bool:
    return one.split() == other.split()


def exported(source: str, folder: Path) -> dict[tuple[str, str], Path]:
    """(format, number type) -> where it is."""
    made: dict[tuple[str, str], Path] = {}
    for to in dict.fromkeys(run[0] for run in RUNS):
        kinds = [run[1] for run in RUNS if run[0] == to]
        # a file ends as its format's do; of several types a folder takes the files
        place = folder / ("model.pt" if to == "openai" else to)
        place.mkdir() if to == "ggml" else None
        made |= {(to, kind): path for kind, path in chorus.export(source, place, to, types=kinds).places.items()}
    return made


def hold(source: str, name: str, tests: dict[str, TestSet], language: str, folder: Path) -> list[dict[str, object]]:
    """A model's exports beside itself."""
    places, rows = exported(source, folder), []
    wanted = {
        test: evaluate(source, data, folder / "source" / test, decoding=Decoding(language=language))
        for test, data in tests.items()
    }
    for to, kind, backend, dtype in RUNS:
        system = open_system(places[to, kind], options=chorus.OpenOptions(allow_pickle=True))
        for test, data in tests.items():
            asked = Decoding(language=language, dtype=dtype)
            found = evaluate(system, data, folder / to / kind / test, decoding=asked, backend=backend)
            rows.append(row_of(name, test, f"{backend}, {kind}", found.rows, wanted[test].rows))
            print(rows[-1], flush=True)
            if to in ("ctranslate2", "openai"):
                texts = on_its_own_spectra(source, places[to, kind], to, kind, data, language)
                pairs = zip(texts, wanted[test].rows, strict=True)
                equal = sum(same(text, row["hypothesis"]) for text, row in pairs)
                rows.append({**rows[-1], "runtime": f"{to}, {kind}, the source's spectra", "equal": equal})
                rows[-1] |= {"wer": "", "difference": ""}
                print(rows[-1], flush=True)
    return rows


def thinned(test: TestSet, most: int) -> TestSet:
    """So many recordings from all over a manifest, which may have its speakers one after another."""
    names = list(test.utterances)
    count = min(most, len(names))
    chosen = [names[i * len(names) // count] for i in range(count)]
    return TestSet({name: test.utterances[name] for name in chosen})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--data", action="append", required=True)
    parser.add_argument("--language", default="en", help="rows of this language alone")
    parser.add_argument("--rows", type=int, default=100)
    args = parser.parse_args()
    tests = {
        Path(data).parent.name: thinned(load_test_set([data], where={"language": [args.language]}), args.rows)
        for data in args.data
    }
    rows = []
    for i, model in enumerate(args.models):
        with common.workplace() as folder:
            (folder / str(i)).mkdir()
            rows += hold(model, Path(model).name, tests, args.language, folder / str(i))
    common.report("heard", rows)


if __name__ == "__main__":
    main()
