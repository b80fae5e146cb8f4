"""The contracts of a format of export and of one that can be verified, held on a model that the format takes."""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from chorus.checkpoints.lazy_tensor import ChangedTensor, Checkpoint, LazyTensor, MemoryTensor
from chorus.checkpoints.lineage import PROVENANCE
from chorus.checkpoints.model import Model, OpenOptions
from chorus.checkpoints.open import Source
from chorus.checkpoints.ties import settled
from chorus.errors import MissingExtraError, OutputError
from chorus.export.api import export, source_of
from chorus.export.protocol import Exporter, ExportOptions
from chorus.export.registry import EXPORTERS
from chorus.identity import file_hash
from chorus.progress import Progress
from chorus.verify.api import verify
from chorus.verify.options import VerifyOptions
from chorus.verify.registry import VERIFIERS, format_of

if TYPE_CHECKING:
    from torch import Tensor

SLACK = 2 << 20  # bytes that a result may take beyond what was foreseen: configs, cards, a tokenizer's older forms
FOREIGN = b"nobody's format, and long enough to be looked into\n" * 4
PLAIN = ExportOptions()
SILENT: Progress = lambda done, total: None  # noqa: E731  an annotated name, as the protocol has it


class Counted(MemoryTensor):
    """A tensor that counts how many of its values are asked for."""

    def __init__(self, tensor: LazyTensor) -> None:
        super().__init__(tensor.name, tensor.read())
        self.asked = 0

    def flat(self, start: int, stop: int) -> Tensor:
        self.asked += stop - start
        return super().flat(start, stop)

    def read(self) -> Tensor:
        self.asked += math.prod(self.shape)
        return super().read()


def check_exporter(name: str, source: Source) -> int:
    """Hold a registered format of export to its protocol; returns in how many types the model was written.

    A type's bytes must not depend on which others are written with it, nor on whether tensors come from a file or are
    computed; each tensor is read once, however many types there are. Give a small model that the format takes.
    """
    exporter = EXPORTERS.get(name)
    _says_what_it_is(exporter)
    # settled before it is counted: which tensors are tied copies is found by reading them
    model = settled(source_of(source, OpenOptions()))
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        alone = _alone(exporter, model, place / "alone")
        assert exporter.default in alone, f"{exporter.default}, the default, is not written"
        counted = _counted(model)
        together = _places(exporter, list(alone), place / "together")
        exporter.write(counted, together, PLAIN, SILENT)
        for kind, path in together.items():
            assert _content(path) == alone[kind], f"{kind}: other bytes than alone and from files"
        again = [t.name for t in counted.checkpoint.values() if isinstance(t, Counted) and t.asked > t.value.numel()]
        assert not again, f"{again[0]} is read more than once for {len(together)} types"
        _replaces_its_own_alone(name, exporter, source, place / "exported")
    return len(alone)


def _says_what_it_is(exporter: Exporter) -> None:
    assert exporter.covers
    assert exporter.default in exporter.types, f"{exporter.default} is none of {', '.join(exporter.types)}"
    assert all(exporter.types.values()), "a type says what it is"
    assert exporter.suffix == "" or exporter.suffix.startswith("."), exporter.suffix
    unknown = exporter.uses - {field.name for field in fields(ExportOptions)}
    assert not unknown, f"{unknown}: no settings of chorus.ExportOptions"


def _alone(exporter: Exporter, model: Model, folder: Path) -> dict[str, dict[str, bytes]]:
    """What is written in each type by itself; not in those that do not fit the model, or need what is not installed."""
    found = {}
    for kind in exporter.types:
        checks = exporter.check(model, [kind], PLAIN)
        assert checks, f"{kind}: nothing is said of what must hold"
        assert all(check.what for check in checks)
        failed = [check for check in checks if check.problem]
        # whoever is refused must learn what to do
        assert all(check.remedy for check in failed), f"{kind}: a problem without a remedy"
        if failed:
            continue
        (place,) = _places(exporter, [kind], folder).values()
        try:
            made = exporter.write(model, {kind: place}, PLAIN, SILENT)
        except MissingExtraError:
            continue
        # the sidecar passes it on unread, and `verify` would call the file changed
        assert kind not in made.hashes or made.hashes[kind] == file_hash(place), f"{kind}: not the hash of its file"
        found[kind] = _content(place)
        nbytes, foreseen = sum(map(len, found[kind].values())), exporter.nbytes(model, kind, PLAIN)
        assert nbytes <= foreseen + SLACK, f"{kind}: {nbytes:,} bytes where {foreseen:,} were foreseen"
        assert foreseen <= 2 * nbytes + 10 * SLACK, f"{kind}: {foreseen:,} bytes foreseen for {nbytes:,}"
    return found


def _places(exporter: Exporter, kinds: Sequence[str], folder: Path) -> dict[str, Path]:
    """Places as an export gives them: files that are not there yet, or directories that are empty."""
    folder.mkdir(parents=True, exist_ok=True)
    places = {kind: folder / f"{kind}{exporter.suffix}" for kind in kinds}
    if not exporter.suffix:
        for place in places.values():
            place.mkdir()
    return places


def _counted(model: Model) -> Model:
    # what an adapter has changed stays: a format of adapters writes the factors, which only such a tensor has
    tensors = {n: t if isinstance(t, ChangedTensor) else Counted(t) for n, t in model.checkpoint.items()}
    return replace(model, checkpoint=Checkpoint(tensors, model.label))


def _content(place: Path) -> dict[str, bytes]:
    """The files of a result, by their names in it."""
    if place.is_file():
        return {"": place.read_bytes()}
    return {str(path.relative_to(place)): path.read_bytes() for path in sorted(place.rglob("*")) if path.is_file()}


def _replaces_its_own_alone(name: str, exporter: Exporter, source: Source, place: Path) -> None:
    """Through `chorus.export`: whole, twice the same, and over a result of its own alone."""
    place = place.with_name(f"{place.name}{exporter.suffix}")
    export(source, place, name)
    first = _content(place)
    assert first, "nothing is written"
    if exporter.suffix:
        assert exporter.ours(place), "its own file is another's"
    try:
        export(source, place, name)
    except OutputError:
        export(source, place, name, overwrite=True)
    else:
        raise AssertionError("what is there is replaced unasked")
    assert _content(place) == first, "a second export has other bytes"
    if exporter.suffix:
        # as `--overwrite` would ask: a manuscript of the same name must stay
        for content in (FOREIGN, b""):
            place.write_bytes(content)
            assert not exporter.ours(place), "anybody's file is its own"


def check_verifier(name: str, exported: Path | str, source: Source) -> int:
    """Hold a registered format of verification to its protocol; returns how many checks the sound export passed.

    An export of this very model must pass structure and tensors, and fail where a tensor is another, where the file is
    cut short, and where it is nothing of the kind. Give what was written, in a type of any precision.
    """
    path, level = Path(exported), VerifyOptions(level=1)
    assert format_of(path) == name
    found = verify(path, source, settings=level)
    assert found.ok, found.failed
    passed = [one for one in found.verdicts if one.status == "holds"]
    for wanted in (0, 1):
        assert any(one.level == wanted for one in passed), f"nothing of level {wanted} is looked at"
    changed, largest = _with_another_tensor(source_of(source, OpenOptions()))
    assert verify(path, changed, settings=level).failed_at(1), f"{largest} of another model passes"
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / path.name
        # without what the export noted of its own hashes, by which any damage is found
        shutil.copytree(path, copy, ignore=lambda *_: [PROVENANCE]) if path.is_dir() else shutil.copyfile(path, copy)
        main = max((p for p in copy.rglob("*") if p.is_file()), key=_size) if copy.is_dir() else copy
        main.write_bytes(main.read_bytes()[: _size(main) // 2])
        assert not verify(copy, source, form=name, settings=level).ok, "half a file passes"
        main.write_bytes(FOREIGN)
        assert not verify(copy, source, form=name, settings=level).ok, "anybody's file passes"
        assert not VERIFIERS.get(name).takes(Path(folder) / "nothing"), "what is not there is taken"
    return len(passed)


def _size(path: Path) -> int:
    return path.stat().st_size


def _with_another_tensor(model: Model) -> tuple[Model, str]:
    """The model with its largest tensor turned round, which no type rounds away; and that tensor's name."""
    tensors: Mapping[str, LazyTensor] = model.checkpoint
    name = max(tensors, key=lambda one: math.prod(tensors[one].shape))
    other = MemoryTensor(name, -tensors[name].read())
    return replace(model, checkpoint=Checkpoint({**tensors, name: other}, model.label)), name
