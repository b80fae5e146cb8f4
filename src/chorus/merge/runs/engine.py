"""Carries out a plan: reads each input once a pass, writes each tensor at its place, resumes after a kill."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Lock, local
from typing import TYPE_CHECKING

from chorus.checkpoints.dtypes import itemsize
from chorus.checkpoints.output_place import refuse_input
from chorus.checkpoints.writer import OutputFile, PartialDirectory, explained
from chorus.identity import Digest, digest
from chorus.lazy import lazy
from chorus.merge.arithmetic.encoded import Work
from chorus.merge.arithmetic.reader import Reader
from chorus.merge.arithmetic.tensor_plan import Input, TensorPlan
from chorus.merge.plan import Plan, Variant
from chorus.merge.runs.journal import NAME as JOURNAL
from chorus.merge.runs.journal import FinishedTensor, Journal, plan_fingerprint
from chorus.merge.runs.local import Cancelled, spread
from chorus.merge.runs.side_files import write_side_files
from chorus.progress import Progress
from chorus.runtime import pick_device

if TYPE_CHECKING:
    import torch

    from chorus.merge.arithmetic.reader import Bytes
else:
    torch = lazy("torch")

STAGED = ".chorus-side-files"  # where they are until they are whole
Group = list[tuple[Variant, TensorPlan]]  # the tensors of one name, of all variants


@dataclass
class Result:
    """What a merge did. `bytes_read` counts input bytes, every pass; `resumed` the tensors found finished."""

    directory: Path
    variants: list[str]
    tensors: int
    resumed: int
    bytes_read: int
    bytes_written: int
    warnings: list[str] = field(default_factory=list)


def run(plan: Plan, output: Path, progress: Progress = lambda done, total: None) -> Result:
    """Carry out a plan. `progress(bytes done, bytes in all)` is called from the calling thread only."""
    pick_device(plan.options.device)
    refuse_input(output, plan.places)
    options, parts = plan.options, [variant.name for variant in plan.variants]
    partial = PartialDirectory(output, resume=options.resume, overwrite=options.overwrite, parts=parts)
    finished = False
    try:
        partial.check_space(plan.bytes_to_write + plan.beside.nbytes * len(plan.variants))
        journal = Journal(partial.path, plan_fingerprint(plan), resume=plan.options.resume)
        try:
            own = [JOURNAL, *(str(Path(v.name) / shard.file) for v in plan.variants for shard in v.shards)]
            _take_back(partial, own, journal.side_files)
            work = _Writing(plan, partial.path, journal)
            try:
                work.drop_damaged()
                resumed = len(journal.done)
                work.run(progress)
            finally:
                work.close()
            # after the weights are synced: nothing says that here is a model before there is one
            warnings = _add_side_files(plan, partial, journal)
            partial.refuse_others([*own, *journal.side_files])
        finally:
            journal.close()
        partial.finish((JOURNAL,))
        finished = True
    finally:
        # the directory stays, for --resume goes on from it; only the lock is given back
        if not finished:
            partial.release()
    names = [v.name for v in plan.variants if v.name]
    return Result(output, names, len(journal.done), resumed, work.bytes_read, work.bytes_written, warnings)


def _take_back(partial: PartialDirectory, own: Sequence[str], side_files: Sequence[str]) -> None:
    """Take away an earlier run's side files, which are written anew; refused where anything else is there."""
    with explained(partial.path):
        shutil.rmtree(partial.path / STAGED, ignore_errors=True)
        # before anything goes: through a link that somebody has put there it would go elsewhere
        partial.refuse_others([*own, *side_files])
        for name in side_files:
            (partial.path / name).unlink(missing_ok=True)


def _add_side_files(plan: Plan, partial: PartialDirectory, journal: Journal) -> list[str]:
    """Put what belongs beside the weights there, noted in the journal before it comes; returns warnings."""
    staged = partial.path / STAGED
    with explained(staged):
        for variant in plan.variants:
            (staged / variant.name).mkdir(parents=True, exist_ok=True)
    warnings = write_side_files(plan, staged, journal.done)
    with explained(partial.path):
        names = sorted(str(path.relative_to(staged)) for path in staged.rglob("*") if path.is_file())
        journal.record_side_files(names)
        for name in names:
            (partial.path / name).parent.mkdir(parents=True, exist_ok=True)
            os.replace(staged / name, partial.path / name)
        shutil.rmtree(staged)
    return warnings


@dataclass
class _WritingThread(local):
    """A thread's reader, and the digests of the file bytes that pass through it."""

    reader: Reader | None = None
    digests: dict[Input, Digest] = field(default_factory=dict)


class _Writing:
    """The state of one run, shared by its threads."""

    def __init__(self, plan: Plan, directory: Path, journal: Journal) -> None:
        self.plan, self.journal, self.session = plan, journal, plan.session
        self.files: dict[tuple[str, str], OutputFile] = {}  # (variant, tensor) -> file
        self.starts: dict[tuple[str, str], int] = {}
        self._open: list[OutputFile] = []
        for variant in plan.variants:
            for shard in variant.shards:
                # every file at its full size first: a tensor goes where the header says, whichever is finished when
                file = OutputFile(directory / variant.name / shard.file, shard.header, shard.size)
                self._open.append(file)
                for name, start in shard.starts.items():
                    self.files[variant.name, name] = file
                    self.starts[variant.name, name] = start
        self.bytes_written = self.done = 0
        self.uses_torch = self.session.needs_torch(list(plan.tensors()))
        self.readers: list[Reader] = []
        self.lock, self.stop, self.thread = Lock(), Event(), _WritingThread()

    def drop_damaged(self) -> None:
        """Forget journal entries whose bytes are not on the disk (a power failure, not a kill)."""
        for key, entry in list(self.journal.done.items()):
            if key not in self.files:  # no tensor of this plan: its digest was remade
                del self.journal.done[key]
                continue
            tensor = self.plan.variant(key[0]).tensors[key[1]]
            found = digest()
            for start, stop in _pieces(tensor.nbytes):
                found.update(self.files[key].read(self.starts[key] + start, stop - start))
            if found.hexdigest() != entry["digest"]:
                del self.journal.done[key]

    def jobs(self) -> list[Group]:
        """The variants' tensors of each name, largest first, so that the threads end together."""
        by_name: dict[str, Group] = {}
        for variant in self.plan.variants:
            for name, tensor in variant.tensors.items():
                if (variant.name, name) not in self.journal.done:
                    by_name.setdefault(name, []).append((variant, tensor))
        return sorted(by_name.values(), key=lambda group: (-group[0][1].numel, group[0][1].name))

    def run(self, progress: Progress) -> None:
        jobs = self.jobs()
        total = sum(t.nbytes for group in jobs for _, t in group)
        progress(0, total)
        decomposes = any(t.decomposed for t in self.plan.tensors())
        # without torch's settings it is never imported, which takes longer than reading a gigabyte
        with self.session.computing(decomposes=decomposes) if self.uses_torch else nullcontext():
            spread(
                jobs, self._in_thread, threads=self.session.threads, poll=lambda: progress(self.done, total),
                stop=self.stop,
            )  # fmt: skip

    def _in_thread(self, group: Group) -> None:
        with self.session.in_thread() if self.uses_torch else nullcontext():
            self._tensor(group)

    def _tensor(self, group: Group) -> None:
        """Compute and write the tensors of one name, all variants from the same read of the inputs."""
        reader, digests = self._reader(), self.thread.digests
        reader.start()
        digests.clear()
        writers = [_TensorWriter(self, variant, t, self.session.work(t, reader)) for variant, t in group]
        for writer in writers:
            # all variants' statistics first: their passes would come between the blocks that the variants share
            writer.work.prepare()
        # side by side, so that a block which several variants ask for is read once; as far as the coarsest cut goes
        for ranges in zip(*(w.work.ranges() for w in writers), strict=False):
            for writer, (start, stop) in zip(writers, ranges, strict=True):
                if self.stop.is_set():
                    raise Cancelled
                writer.write(start, stop)
        for writer in writers:  # those that cut the tensor more finely than the coarsest
            writer.write_rest()
        # only now: the digests are of whole tensors, and the journal says of each variant what was read for all
        inputs = {f"{i.model}:{i.tensor}": d.hexdigest() for i, d in digests.items()}
        for writer in writers:
            with self.lock:
                self.journal.record(writer.entry(inputs))

    def _reader(self) -> Reader:
        """This thread's reader, which digests the bytes of files as they pass."""
        if self.thread.reader is None:
            digests = self.thread.digests
            positions: dict[Input, int] = {}

            def observe(which: Input, start: int, count: int, data: Bytes) -> None:
                # an input of several outputs (layers stacked twice) is hashed anew for each
                if start == 0:
                    digests[which], positions[which] = digest(), 0
                if positions.get(which) == start:  # each byte once
                    positions[which] = start + count
                    digests[which].update(data)

            self.thread.reader = self.session.new_reader(observe)
            self.thread.reader.digests = digests
            self.readers.append(self.thread.reader)
        return self.thread.reader

    def count(self, written: int) -> None:
        with self.lock:
            self.bytes_written += written
            self.done += written

    @property
    def bytes_read(self) -> int:
        """Bytes of input tensors, every pass counted."""
        return sum(reader.bytes_read for reader in self.readers)

    def close(self) -> None:
        for file in self._open:
            file.close()


class _TensorWriter:
    """Writes one tensor of one variant at its place."""

    def __init__(self, owner: _Writing, variant: Variant, tensor: TensorPlan, work: Work) -> None:
        self.owner, self.variant, self.tensor, self.work = owner, variant, tensor, work
        key = variant.name, tensor.name
        self.file, self.start = owner.files[key], owner.starts[key]
        self.digest = digest()
        self.loss = [0.0, 0.0, 0.0]  # sums of squares: error, weights, deltas
        self.size = itemsize(tensor.dtype)
        self.written = 0

    def write(self, start: int, stop: int) -> None:
        encoded = self.work.encoded(start, stop)
        # of what was to be written: a resume holds the disk against it
        self.digest.update(encoded.data)
        self.file.write(encoded.data, self.start + start * self.size)
        self.loss = [a + b for a, b in zip(self.loss, encoded.loss, strict=True)]
        self.written = stop
        self.owner.count(encoded.data.nbytes)

    def entry(self, inputs: dict[str, str]) -> FinishedTensor:
        """What the journal says of the tensor; `inputs` are the digests of what was read for it."""
        return {
            "variant": self.variant.name, "tensor": self.tensor.name, "digest": self.digest.hexdigest(),
            "inputs": inputs, "loss": self.loss,
        }  # fmt: skip

    def write_rest(self) -> None:
        for start, stop in self.work.ranges():
            if start >= self.written:
                self.write(start, stop)


def _pieces(size: int, step: int = 1 << 24) -> Iterator[tuple[int, int]]:
    for start in range(0, size, step):
        yield start, min(start + step, size)
