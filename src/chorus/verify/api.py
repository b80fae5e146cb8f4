"""`chorus.verify`: whether an export is the model that it was made of, by levels from cheap to dear."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

from chorus.checkpoints.lineage import PROVENANCE
from chorus.checkpoints.model import Model, OpenOptions
from chorus.checkpoints.open import Source
from chorus.errors import CheckpointError, ChorusError, UsageError, nearest, some
from chorus.export.api import SIDECAR, source_of
from chorus.export.whisper import is_whisper
from chorus.files import expanded, present, read_json
from chorus.identity import file_hash
from chorus.provenance import versions
from chorus.sizes import size
from chorus.verify.cost import sizes
from chorus.verify.front_end import front_end
from chorus.verify.options import VerifyOptions
from chorus.verify.protocol import Client, Subject
from chorus.verify.registry import VERIFIERS, format_of
from chorus.verify.structure import OtherSourceError
from chorus.verify.tensors import tensors
from chorus.verify.verdict import LEVELS, Verdict, Verification, fails, holds, judged, skipped

PACKAGES = (
    "ctranslate2", "faster-whisper", "gguf", "llama-cpp-python", "onnxruntime", "openai-whisper", "pywhispercpp",
    "sherpa-onnx", "torch", "transformers",
)  # fmt: skip


def verify(
    export: str | Path,
    against: Source,
    audio: Sequence[str | Path] = (),
    *,
    data: str | Path | Sequence[str | Path] = (),
    form: str = "",
    tokenizer: str | Path | None = None,
    settings: VerifyOptions | None = None,
    options: OpenOptions | None = None,
) -> Verification:
    """Hold an export against the model that it was made of.

    `against` is whatever `chorus.export` takes. Recordings are files (`audio`) or manifests (`data`): without any,
    logits and transcripts are skipped. `form` names the format that a file should be in whose damage hides it.

    What does not hold is in the result, not raised; `UsageError`, `CheckpointError` of the source and `DataError` are.

    >>> chorus.verify("ggml-mine-q5_0.bin", "merged", data="test.csv").ok  # doctest: +SKIP
    True
    """
    wanted = settings or VerifyOptions()
    path = expanded(export)
    if not present(path):
        raise CheckpointError(f"{path}: no such file or directory", "check the path of the export")
    name = form or format_of(path)
    verifier = VERIFIERS.get(name)
    source = source_of(against, options or OpenOptions(), tokenizer)
    found = Verification(path.name, name, "", source.label, versions=versions(PACKAGES))
    try:
        subject = verifier.open(path, source)
    except CheckpointError as error:
        what = "what it was made of" if isinstance(error, OtherSourceError) else "read to its end"
        found.verdicts.append(fails(0, what, f"{error.message}: {error.hint}" if error.hint else error.message))
        found.verdicts += [skipped(level, what, "its structure does not hold") for level, what in _after(wanted)]
        return found
    found.kind = subject.kind
    clients = list(_clients(subject, wanted, found))
    found.verdicts += _cheap(subject, wanted)
    if wanted.level >= 2:
        found.verdicts += _runtimes(subject, source, clients, wanted, audio, data, sound=not found.failed_at(0))
    if wanted.level >= 5:
        found.verdicts += sizes(subject)
    # stable: within a level in the order of looking
    found.verdicts.sort(key=lambda one: one.level)
    return found


def _after(wanted: VerifyOptions) -> Iterator[tuple[int, str]]:
    """What is not looked at, of a file that cannot be read."""
    yield from list(enumerate(LEVELS))[1 : wanted.level + 1]


def _clients(subject: Subject, wanted: VerifyOptions, found: Verification) -> Iterator[Client]:
    """The runtimes that are asked; those that are not installed are noted."""
    known = {client.name: client for client in subject.clients}
    for name in wanted.runtimes:
        if name not in known:
            told = f"{name} runs no {subject.format}{nearest(name, known)}"
            raise UsageError(told, f"a runtime of it: {', '.join(known) or 'none'}")
    for name, client in known.items():
        if wanted.runtimes and name not in wanted.runtimes:
            continue
        if client.installed():
            yield client
            continue
        if name in wanted.runtimes:
            found.missing.append(name)
        if wanted.level >= 3:
            why = f'{name} is not installed: pip install "{client.package}"'
            found.verdicts += [skipped(level, f"in {name}", why) for level in range(3, min(wanted.level, 4) + 1)]


def _cheap(subject: Subject, wanted: VerifyOptions) -> Iterator[Verdict]:
    """L0 and L1."""
    yield holds(0, "read to its end", size(subject.nbytes))
    yield from _as_written(subject.path)
    yield from subject.structure
    if wanted.level >= 1:
        yield from tensors(subject.tensors)


def _as_written(path: Path) -> Iterator[Verdict]:
    """Whether it is what its sidecar tells of; other converters write none."""
    what, changed = "as it was written", "it has changed since"
    if path.is_dir():
        told = read_json(path / PROVENANCE).get("contents") if present(path / PROVENANCE) else None
        # merges and trainings leave facts of another kind in a directory
        if isinstance(told, dict):
            other = [n for n, known in told.items() if not present(path / n) or file_hash(path / n) != known]
            yield judged(0, what, f"{changed}: {some(other)}" if other else "", f"{len(told)} files")
        return
    beside = path.with_name(path.name + SIDECAR)
    written = read_json(beside).get("xxh3") if present(beside) else None
    if isinstance(written, str):
        problem = "" if written == file_hash(path) else f"{changed} (its sidecar has another hash)"
        yield judged(0, what, problem)


def _runtimes(
    subject: Subject, source: Model, clients: Sequence[Client], wanted: VerifyOptions,
    audio: Sequence[str | Path], data: str | Path | Sequence[str | Path], *, sound: bool,
) -> Iterator[Verdict]:  # fmt: skip
    """L2 to L5; `sound` says whether the structure holds, without which no runtime is given the file."""
    if find_spec("transformers") is None:
        yield skipped(2, LEVELS[2], "transformers is not installed")
        return
    if is_whisper(source):
        yield from _heard(subject, source, clients, wanted, audio, data, sound=sound)
    elif audio or data:
        raise UsageError(f"{source.label} hears nothing: no recordings are of use", "leave them out")
    # what a model of yet another kind makes of sounds or texts nobody compares, which `_read` tells
    elif sound and clients:
        yield from _read(subject, source, clients, wanted)
    # a runtime given what its loader cannot follow crashes, and that tells nothing that is not known
    if not sound or not subject.clients:
        why = "no runtime of its format is known here" if sound else "its structure does not hold"
        yield from (skipped(level, LEVELS[level], why) for level in range(3, min(wanted.level, 4) + 1))


def _read(subject: Subject, source: Model, clients: Sequence[Client], wanted: VerifyOptions) -> Iterator[Verdict]:
    """Of a language model."""
    from chorus.verify.language import LanguageOriginal, read_by

    try:
        original = LanguageOriginal(source)
    except ChorusError as error:
        yield skipped(2, "the source in transformers", f"{error.message}: {error.hint}")
        return
    for client in clients:
        yield from read_by(subject, original, client, wanted.level)


def _heard(
    subject: Subject, source: Model, clients: Sequence[Client], wanted: VerifyOptions,
    audio: Sequence[str | Path], data: str | Path | Sequence[str | Path], *, sound: bool,
) -> Iterator[Verdict]:  # fmt: skip
    """Of a Whisper."""
    from chorus.transcribe.decoding import DETECT, Decoding
    from chorus.transcribe.systems import open_system
    from chorus.verify.hearing import Hearing
    from chorus.verify.original import Original
    from chorus.verify.recordings import recordings
    from chorus.verify.transcripts import Bound

    sounds = recordings(audio, data, wanted) if wanted.level >= 3 else []
    # one setting for all: languages that are told and languages that are heard would be two decodings
    untold = any(not one.row.language for one in sounds)
    try:
        original = Original(open_system(source), Decoding(language=DETECT) if untold else Decoding())
    except ChorusError as error:
        yield skipped(2, "the source in transformers", f"{error.message}: {error.hint}")
        return
    yield from front_end(subject, original)
    if not sound:
        return
    modes = (False, True) if wanted.timestamps else (False,)
    bound = Bound(subject.exact, wanted.max_wer_increase, wanted.normaliser)
    hearing = Hearing(original, sounds, modes, bound, wanted.level)
    if wanted.level >= 4:
        yield from hearing.taught()
    for client in clients:
        yield from hearing.of(subject, client)
