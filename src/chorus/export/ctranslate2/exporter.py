"""`--to ctranslate2`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from chorus.checkpoints.model import Model
from chorus.errors import CheckpointError
from chorus.export import whisper
from chorus.export.ctranslate2 import side_files, writer
from chorus.export.ctranslate2.layout import TYPES, WEIGHTS
from chorus.export.protocol import ExportOptions, Making, Requirement
from chorus.models.limits import with_generation
from chorus.models.whisper_tokens import MULTILINGUAL, START, check_ids, special_ids
from chorus.progress import Progress

SIDE_BYTES = 6_000_000  # of tokenizer and vocabulary together, about


class CTranslate2:
    """faster-whisper's directory, of Whispers of any size."""

    covers = "Whisper, for faster-whisper (CTranslate2)"
    types: Mapping[str, str] = {name: kind.doc for name, kind in TYPES.items()}
    # what faster-whisper's own models are in: half the size, and loaded as what the machine computes in
    default = "float16"
    suffix = ""
    uses = frozenset({"trim_vocabulary"})

    def check(self, model: Model, types: Sequence[str], options: ExportOptions) -> list[Requirement]:
        if not whisper.is_whisper(model):
            kind = model.config.get("model_type") or "unknown"
            return [Requirement("a Whisper", f"a model of the type {kind}", "faster-whisper runs Whisper alone")]
        found = [Requirement("a Whisper"), *_usual(model), *_vocabulary(model, trim=options.trim_vocabulary)]
        told = "; ".join(side_files.problems_of_front_end(model))
        remedy = "take the preprocessor_config.json (or processor_config.json) of its base"
        return [*found, Requirement("mel bins of the front end", told, remedy if told else "")]

    def nbytes(self, model: Model, kind: str, options: ExportOptions) -> int:
        size = whisper.size_of(model, trim=options.trim_vocabulary)
        config = {**model.config, "vocab_size": size}
        return writer.nbytes(config, TYPES[kind], writer.own_type(model)) + SIDE_BYTES

    def write(self, model: Model, places: Mapping[str, Path], options: ExportOptions, progress: Progress) -> Making:
        size = whisper.size_of(model, trim=options.trim_vocabulary)
        warnings: list[str] = []
        for place in places.values():
            place.mkdir(parents=True, exist_ok=True)
            warnings += side_files.write(model, place, size)
        writer.write(model, {kind: place / WEIGHTS for kind, place in places.items()}, size, progress)
        if size not in whisper.SIZES:
            warnings.append(
                f"{model.label}: {size:,} tokens; what comes after the times CTranslate2 takes for times as well: "
                "transcribe with without_timestamps=True"
            )
        return Making({"vocabulary": size}, list(dict.fromkeys(warnings)))

    def ours(self, path: Path) -> bool:
        return (path / WEIGHTS).is_file()


def _usual(model: Model) -> Iterator[Requirement]:
    """CTranslate2's Whisper computes in one way, whatever the config says."""
    for key, usual in (("activation_function", "gelu"), ("scale_embedding", False)):
        stated = model.config.get(key, usual)
        told = "" if stated == usual else f"{key} is {stated}, CTranslate2 computes a Whisper with {usual}"
        yield Requirement(f"usual {key}", told, "use --backend transformers for it" if told else "")


def _vocabulary(model: Model, *, trim: bool) -> Iterator[Requirement]:
    files, ids = whisper.tokenizer_files(model), whisper.token_ids(model)
    if not ids or not ("tokenizer.json" in files or {"vocab.json", "merges.txt"} <= set(files)):
        yield Requirement(
            "tokenizer", "no tokenizer.json (or vocab.json and merges.txt) is beside it", side_files.REMEDY
        )
        return
    yield Requirement("tokenizer")
    stored, size = int(model.config["vocab_size"]), whisper.size_of(model, trim=trim)
    trained = trim and size < stored and not whisper.is_padding(model, size)
    told = f"the last {stored - size:,} of its {stored:,} tokens are no untouched padding" if trained else ""
    yield Requirement("size of the vocabulary", told, "leave --trim-vocab away" if told else "")
    settings = with_generation({**model.config, "vocab_size": size}, side_files.generation_of(model, ids))
    try:
        check_ids(settings, ids, model.label)
        yield Requirement("ids in the generation settings")
    except CheckpointError as error:
        yield Requirement("ids in the generation settings", error.message, error.hint)
        return
    if size in whisper.SIZES:
        # that there is one is told above
        yield from (check for check in whisper.check_tokens(model, size) if check.what != "tokenizer")
        return
    # by the size alone CTranslate2 decides whether a language is asked for
    english = ids[START] < special_ids(MULTILINGUAL)[START]
    told = f"{size:,} tokens of English alone, which CTranslate2 takes for many languages"
    wrong = english and size >= MULTILINGUAL
    remedy = "tokens that were added cannot go there (--trim-vocab leaves untouched padding out)"
    yield Requirement("languages by the size", told if wrong else "", remedy if wrong else "")
