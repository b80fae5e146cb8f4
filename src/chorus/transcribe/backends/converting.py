"""Models in a runtime's own form, made once and kept in the cache by content."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from chorus import cache
from chorus.checkpoints.lazy_tensor import Checkpoint
from chorus.checkpoints.model import Model, relabelled
from chorus.checkpoints.names import named
from chorus.checkpoints.open import open_model
from chorus.export.api import refuse
from chorus.export.output import check_room
from chorus.export.protocol import ExportOptions
from chorus.export.registry import EXPORTERS
from chorus.models.loading import read_config
from chorus.transcribe.backends.huggingface import origin_of
from chorus.transcribe.systems import System


def converted(system: System, to: str, kind: str, holds: str) -> Path:
    """A system in a form that it can be exported to, in numbers of a kind: the directory that `holds` this file."""
    exporter, options = EXPORTERS.get(to), ExportOptions()

    def make(place: Path) -> None:
        model = model_of(system)
        refuse(to, model, exporter.check(model, [kind], options))
        check_room(place.parent, exporter.nbytes(model, kind, options))
        if exporter.suffix:
            place.mkdir()
        draft = place / holds if exporter.suffix else place
        exporter.write(model, {kind: draft}, options, lambda done, total: None)

    return in_cache(to, cache.cache_key(**{to: system.identity, "type": kind}), holds, make)


def in_cache(folder: str, key: str, holds: str, make: Callable[[Path], None]) -> Path:
    """The directory that `make` fills, kept under a key; it `holds` a file of this name once it is whole."""
    place = cache.directory() / folder
    final = place / key
    if (final / holds).exists():
        os.utime(final)
        return final
    place.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place) as draft:
        made = Path(draft) / "made"
        make(made)
        try:
            made.replace(final)
        except OSError:
            # another process may have been faster; its files are the same
            if not (final / holds).exists():
                raise
    bound(place, final)
    return final


def model_of(system: System) -> Model:
    """What a system is made of, as export takes it."""
    if system.tensors is None:
        return relabelled(open_model(system.directory), system.label)
    config = read_config(origin_of(system))
    tensors = Checkpoint(system.tensors, system.label)
    return named(
        Model(
            system.label, tensors, config, system.directory, tokenizer_directory=system.tokenizer,
            generation=system.generation,
        )
    )  # fmt: skip


def bound(place: Path, keep: Path) -> None:
    """What was not used for longest goes, until the folder fits the cache's limit."""
    found = sorted((p for p in place.iterdir() if p != keep), key=lambda p: p.stat().st_mtime)
    sizes = {p: sum(f.stat().st_size for f in p.rglob("*") if f.is_file()) for p in [*found, keep]}
    for path in found:
        if sum(sizes.values()) <= cache.limit_bytes():
            break
        del sizes[path]
        shutil.rmtree(path, ignore_errors=True)
