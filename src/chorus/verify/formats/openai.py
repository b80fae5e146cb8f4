"""openai-whisper's `.pt` beside the Whisper that it was made of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from chorus.architectures.openai_whisper import dimensions, openai_names, transformers_name
from chorus.checkpoints.model import Model
from chorus.errors import some
from chorus.export import whisper
from chorus.export.ggml.layout import count_of, shape_of, shapes
from chorus.export.openai.archive import looks_so
from chorus.export.values import BLOCK
from chorus.models.generation import generation_config
from chorus.transcribe.backends.openai_whisper import decoder_of
from chorus.verify.formats.openai_archive import PtFile, read
from chorus.verify.front_end import in_runtime
from chorus.verify.protocol import Client, Subject, TensorProof
from chorus.verify.runtime import RuntimeChild
from chorus.verify.structure import Held, other_tensors, refuse_other, special_by_size, tied_head
from chorus.verify.values import finite, plain_proof
from chorus.verify.verdict import Verdict, judged

NAME, LOADED = "openai-whisper", "chorus.verify.formats.openai_runtime:LoadedOpenai"


class OpenaiVerifier:
    """The format (see protocol.py)."""

    def takes(self, path: Path) -> bool:
        return path.is_file() and looks_so(path)

    def open(self, path: Path, source: Model) -> Subject:
        """As the protocol says; a source that is no Whisper is refused."""
        refuse_other(source)
        found = read(path)
        size = whisper.size_of(source, trim=True)
        kinds = Counter(one.dtype for one in found.entries.values())
        problems = list(other_tensors(_held(found), wanted := _wanted(found, source, size)))
        # no size is foreseen: torch's own archives have longer headers than ours
        return Subject(
            path, "openai", kinds.most_common(1)[0][0] if kinds else "", True,
            structure=_structure(found, source, size, problems),
            tensors=() if problems else _tensors(found, source), clients=(_client(path, source),),
            nbytes=path.stat().st_size, as_float16=sum(2 * count_of(shape) for shape, _ in wanted.values()),
        )  # fmt: skip


def _client(path: Path, source: Model) -> Client:
    opens = partial(RuntimeChild, LOADED, {"path": str(path)}, what=f"{NAME}'s process")
    return Client(
        NAME, NAME, lambda: find_spec("whisper") is not None, opens, partial(in_runtime, opens, NAME),
        lambda decoding: decoder_of(path, generation_config(source), decoding, "cpu"),
        # whisper.transcribe cuts the silence off that it has put behind a sound, and fills up the spectrum
        hears_otherwise=f"{NAME} fills the window behind a sound with zeros, transformers with silence",
    )  # fmt: skip


def _held(found: PtFile) -> dict[str, Held]:
    return {name: (one.shape, one.dtype) for name, one in found.entries.items()}


def _wanted(found: PtFile, source: Model, size: int) -> dict[str, Held]:
    """The source's tensors; each in the type that it has in the file, as its loader takes any."""
    dims = {**dimensions(source.config), "n_vocab": size}
    known, wanted = shapes(dims), {}
    for name in openai_names(dims["n_audio_layer"], dims["n_text_layer"]):
        shape = shape_of(name, known)
        # the convolutions' biases have a dimension more in whisper.cpp's files, whose shapes these are
        shape = shape[:1] if name.endswith(("conv1.bias", "conv2.bias")) else shape
        wanted[name] = (shape, found.entries[name].dtype if name in found.entries else "")
    return wanted


def _structure(found: PtFile, source: Model, size: int, problems: list[str]) -> Iterator[Verdict]:
    told = f"{len(found.entries)} tensors"
    yield judged(0, "names, shapes and types", some(problems), told, problems=problems)
    dims = {**dimensions(source.config), "n_vocab": size}
    other = [f"{name} is {found.dims[name]:,}, by the config {value:,}" for name, value in dims.items()
             if found.dims[name] != value]  # fmt: skip
    yield judged(0, "dimensions", some(other, 4), str(found.dims))
    yield tied_head(found.entries, source, own="decoder.proj", runtime=NAME)
    yield special_by_size(found.dims["n_vocab"], source, NAME)
    yield judged(0, "no NaN, no infinity", some(_not_finite(found)))


def _not_finite(found: PtFile) -> Iterator[str]:
    for name, one in found.entries.items():
        starts = range(0, one.count, BLOCK)
        if not all(finite(found.raw(name, at, min(at + BLOCK, one.count)), one.dtype) for at in starts):
            yield name


def _tensors(found: PtFile, source: Model) -> Iterator[TensorProof]:
    for name, one in found.entries.items():
        tensor = whisper.tensor_of(source, transformers_name(name))
        yield plain_proof(name, one.dtype, one.count, partial(found.raw, name), tensor)
