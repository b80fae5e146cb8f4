"""`--to gguf`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from chorus.checkpoints.model import Model
from chorus.errors import CheckpointError, MissingExtraError
from chorus.export.ggml.layout import TYPES, NumberType
from chorus.export.ggml.quants import needs
from chorus.export.gguf import keys as k
from chorus.export.gguf import writer
from chorus.export.gguf.kinds import check_kind, kind_of
from chorus.export.gguf.modelfile import FIRST, for_model
from chorus.export.gguf.package import Keys, package
from chorus.export.gguf.tensors import check_rows, entries
from chorus.export.gguf.tokens import Words, read_words
from chorus.export.protocol import ExportOptions, Making, Requirement
from chorus.export.whisper import tokenizer_files
from chorus.progress import Progress

NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")


class Gguf:
    """llama.cpp's file, of language models."""

    covers = "Qwen2, Qwen2.5, Qwen3 and Llama language models, for llama.cpp and Ollama"
    types: Mapping[str, str] = {name: kind.doc.partition(";")[0] for name, kind in TYPES.items()}
    default = "f16"
    suffix = ".gguf"
    uses = frozenset({"modelfile", "pre_tokenizer"})

    def check(self, model: Model, types: Sequence[str], options: ExportOptions) -> list[Requirement]:
        found = check_kind(model)
        if any(check.problem for check in found):  # what follows goes by what these say
            return found
        try:
            made = entries(model, package())
        except CheckpointError as error:  # of no use without them
            return [*found, Requirement("tensors", error.message, error.hint)]
        found += [Requirement("tensors"), *check_rows(made, types, list(self.types))]
        try:
            words_of(model, options)
            found.append(Requirement("tokenizer"))
        except CheckpointError as error:
            found.append(Requirement("tokenizer", error.message, error.hint))
        return found

    def nbytes(self, model: Model, kind: str, options: ExportOptions) -> int:
        tokenizer = sum(path.stat().st_size for path in tokenizer_files(model).values())
        return writer.nbytes(entries(model, package()), TYPES[kind]) + tokenizer

    def write(self, model: Model, places: Mapping[str, Path], options: ExportOptions, progress: Progress) -> Making:
        refuse_missing(places)
        kind, words = kind_of(model), words_of(model, options)
        made = entries(model, package())

        def describe(keys: Keys, number: NumberType) -> None:
            k.describe_file(keys, number, model.label, "model")
            k.describe_model(keys, model, kind, made)
            k.describe_words(keys, words)

        writer.write(kind.name, made, places, describe, progress)
        facts = {"architecture": kind.name, "pre_tokenizer": words.pre, "tensors": len(made)}
        return Making(facts, modelfile=for_model(model, words) if options.modelfile else "")

    def ours(self, path: Path) -> bool:
        return is_ours(path)


def is_ours(path: Path) -> bool:
    """A GGUF, or a Modelfile that was written beside one."""
    with path.open("rb") as file:
        return file.read(len(FIRST)).startswith((writer.MAGIC, FIRST.encode()))


def refuse_missing(places: Mapping[str, Path]) -> None:
    """`MissingExtraError` where a type needs what is not installed."""
    for name in places:
        if extra := needs(TYPES[name]):
            raise MissingExtraError(extra, f"the type {name}")


def words_of(model: Model, options: ExportOptions) -> Words:
    """Its tokenizer; `CheckpointError` where llama.cpp has no such."""
    pre = options.pre_tokenizer
    if pre and not NAME.fullmatch(pre):
        raise CheckpointError(f"--pre-tokenizer {pre!r} is no name of llama.cpp's", "llama-bpe, qwen2, gpt-2, ...")
    return read_words(tokenizer_files(model), model.config, usual=kind_of(model).pre, pre=pre)
