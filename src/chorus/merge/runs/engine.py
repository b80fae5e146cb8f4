"""Carries out a plan: reads each input once a pass, writes each tensor at its place, resumes after a kill."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Lock, local
from typing import Any

import numpy as np

from chorus.cache import Cache
from chorus.checkpoints.dtypes import itemsize, torch_dtype
from chorus.checkpoints.lazy_tensor import Checkpoint
from chorus.checkpoints.writer import OutputFile, PartialDirectory
from chorus.errors import CheckpointError
from chorus.lazy import lazy
from chorus.linalg.lapack import one_blas_thread
from chorus.merge.arithmetic.compute import Work, without_torch
from chorus.merge.arithmetic.reader import Reader
from chorus.merge.arithmetic.work import work_of
from chorus.merge.plan import Input, Plan, TensorPlan, Variant
from chorus.merge.runs.journal import NAME as JOURNAL
from chorus.merge.runs.journal import Journal, fingerprint
from chorus.merge.runs.side_files import write_side_files
from chorus.runtime import pick_device

torch = lazy("torch")
xxhash = lazy("xxhash")

Progress = Callable[[int, int], None]


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


class Cancelled(Exception):  # noqa: N818  not an error: another thread has failed
    """Ends a thread after another one's failure."""


def run(plan: Plan, output: Path, progress: Progress = lambda done, total: None) -> Result:
    """Carry out a plan. `progress(bytes done, bytes in all)` is called from the calling thread only."""
    pick_device(plan.options.device)
    check_duplicates(plan)
    partial = PartialDirectory(output, resume=plan.options.resume, overwrite=plan.options.overwrite)
    finished = False
    try:
        partial.check_space(plan.bytes_to_write)
        journal = Journal(partial.path, fingerprint(plan), resume=plan.options.resume)
        try:
            work = _Work(plan, partial.path, journal)
            work.drop_damaged()
            resumed = len(journal.done)
            work.run(progress)
            work.close()
            warnings = write_side_files(plan, partial.path, journal.done)
        finally:
            journal.close()
        partial.finish((JOURNAL,))
        finished = True
    finally:
        if not finished:
            partial.release()
    names = [v.name for v in plan.variants if v.name]
    return Result(output, names, len(journal.done), resumed, work.bytes_read, work.bytes_written, warnings)


def check_duplicates(plan: Plan) -> None:
    """A copy of a tied tensor is left out of the result, so it must hold the same values as what it is tied to."""
    for model, copy, source in plan.duplicates:
        first, second = (plan.models[model].checkpoint[name] for name in (copy, source))
        step = 1 << 22
        numel = math.prod(first.shape)
        ranges = [(start, min(start + step, numel)) for start in range(0, numel, step)]
        if first.shape != second.shape or not all(torch.equal(first.flat(a, b), second.flat(a, b)) for a, b in ranges):
            raise CheckpointError(
                f"{plan.models[model].label}: {copy} is tied to {source}, but the two hold different values",
                'if they are meant to differ, set "tie_word_embeddings": false in its config.json',
            )


@contextmanager
def one_thread_each(*, decomposes: bool) -> Iterator[None]:
    """torch's own threads off: the engine works on several tensors at once, and sums must not depend on it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode(), one_blas_thread() if decomposes else nullcontext():
            yield
    finally:
        torch.set_num_threads(before)


class _Work:
    """The state of one run, shared by its threads."""

    def __init__(self, plan: Plan, directory: Path, journal: Journal) -> None:
        self.plan, self.journal = plan, journal
        self.files: dict[tuple[str, str], OutputFile] = {}  # (variant, tensor) -> file
        self.starts: dict[tuple[str, str], int] = {}
        self._open: list[OutputFile] = []
        for variant in plan.variants:
            for shard in variant.shards:
                file = OutputFile(directory / variant.name / shard.file, shard.header, shard.size)
                self._open.append(file)
                for name, start in shard.starts.items():
                    self.files[variant.name, name] = file
                    self.starts[variant.name, name] = start
        self.bytes_written = self.done = 0
        device = plan.options.device
        self.uses_torch = not all(
            without_torch(t, plan.models, device) for v in plan.variants for t in v.tensors.values()
        )
        self.readers: list[Reader] = []
        self.cache = cache_for(plan)
        self.lock, self.stop, self.thread = Lock(), Event(), local()

    def drop_damaged(self) -> None:
        """Forget journal entries whose bytes are not on the disk (a power failure, not a kill)."""
        for key, entry in list(self.journal.done.items()):
            variant = next(v for v in self.plan.variants if v.name == key[0])
            digest = xxhash.xxh3_128()
            for start, stop in _pieces(variant.tensors[key[1]].nbytes):
                digest.update(self.files[key].read(self.starts[key] + start, stop - start))
            if digest.hexdigest() != entry["digest"]:
                del self.journal.done[key]

    def jobs(self) -> list[list[tuple[Variant, TensorPlan]]]:
        """The variants' tensors of each name, largest first, so that the threads end together."""
        by_name: dict[str, list[tuple[Variant, TensorPlan]]] = {}
        for variant in self.plan.variants:
            for name, tensor in variant.tensors.items():
                if (variant.name, name) not in self.journal.done:
                    by_name.setdefault(name, []).append((variant, tensor))
        return sorted(by_name.values(), key=lambda group: (-group[0][1].numel, group[0][1].name))

    def run(self, progress: Progress) -> None:
        jobs = self.jobs()
        total = sum(t.nbytes for group in jobs for _, t in group)
        progress(0, total)
        decomposes = any(t.treatment for v in self.plan.variants for t in v.tensors.values())
        with one_thread_each(decomposes=decomposes) if self.uses_torch else nullcontext():
            if self.plan.jobs == 1:
                for group in jobs:
                    self._tensor(group)
                    progress(self.done, total)
                return
            with ThreadPoolExecutor(self.plan.jobs, thread_name_prefix="merge") as pool:
                waiting = {pool.submit(self._threaded, group) for group in jobs}
                try:
                    while waiting:
                        ended, waiting = wait(waiting, timeout=0.2, return_when=FIRST_EXCEPTION)
                        for future in ended:
                            _raise(future)
                        progress(self.done, total)
                except BaseException:
                    self.stop.set()
                    for future in waiting:
                        future.cancel()
                    raise

    def _threaded(self, group: list[tuple[Variant, TensorPlan]]) -> None:
        if not self.uses_torch:
            self._tensor(group)
            return
        with torch.inference_mode():  # a setting of the thread
            torch.set_num_threads(1)
            self._tensor(group)

    def _tensor(self, group: list[tuple[Variant, TensorPlan]]) -> None:
        """Compute and write the tensors of one name, all variants from the same read of the inputs."""
        reader, digests = self._reader()
        reader.start()
        digests.clear()
        options = self.plan.options
        writers = []
        for variant, tensor in group:
            work = work_of(tensor, reader, seed=self.plan.seed, block_values=options.block_values)
            writers.append(_TensorWriter(self, variant, tensor, work))
        for writer in writers:
            writer.work.prepare()
        for ranges in zip(*(w.work.ranges() for w in writers), strict=False):
            for writer, (start, stop) in zip(writers, ranges, strict=True):
                if self.stop.is_set():
                    raise Cancelled
                writer.write(start, stop)
        for writer in writers:  # those that cut the tensor more finely than the coarsest
            writer.write_rest()
        inputs = {f"{i.model}:{i.tensor}": d.hexdigest() for i, d in digests.items()}
        for writer in writers:
            with self.lock:
                self.journal.record(
                    writer.variant.name,
                    writer.tensor.name,
                    digest=writer.digest.hexdigest(),
                    inputs=inputs,
                    loss=writer.loss,
                )

    def _reader(self) -> tuple[Reader, dict[Input, Any]]:
        """This thread's reader, which digests the bytes of files as they pass."""
        if not hasattr(self.thread, "reader"):
            digests: dict[Input, Any] = {}
            positions: dict[Input, int] = {}

            def observe(which: Input, start: int, count: int, data: Any) -> None:
                if start == 0:
                    digests[which], positions[which] = xxhash.xxh3_128(), 0
                if positions.get(which) == start:  # each byte once
                    positions[which] = start + count
                    digests[which].update(data)

            options = self.plan.options
            reader = Reader(
                self.plan.models,
                device=options.device,
                allow_nonfinite=options.allow_nonfinite,
                observe=observe,
                cache=self.cache,
            )
            reader.digests = digests
            self.thread.reader, self.thread.digests = reader, digests
            self.readers.append(reader)
        return self.thread.reader, self.thread.digests

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

    def __init__(self, owner: _Work, variant: Variant, tensor: TensorPlan, work: Work) -> None:
        self.owner, self.variant, self.tensor, self.work = owner, variant, tensor, work
        key = variant.name, tensor.name
        self.file, self.start = owner.files[key], owner.starts[key]
        self.digest = xxhash.xxh3_128()
        self.loss = [0.0, 0.0, 0.0]  # sums of squares: error, weights, deltas
        self.size = itemsize(tensor.dtype)
        self.written = 0

    def write(self, start: int, stop: int) -> None:
        encoded = self.work.encoded(start, stop)
        self.digest.update(encoded.data)
        self.file.write(encoded.data, self.start + start * self.size)
        self.loss = [a + b for a, b in zip(self.loss, encoded.loss, strict=True)]
        self.written = stop
        self.owner.count(encoded.data.nbytes)

    def write_rest(self) -> None:
        for start, stop in self.work.ranges():
            if start >= self.written:
                self.write(start, stop)


def _raise(future: Future[None]) -> None:
    error = future.exception()
    if error is not None and not isinstance(error, Cancelled):
        raise error


def _pieces(size: int, step: int = 1 << 24) -> Iterator[tuple[int, int]]:
    for start in range(0, size, step):
        yield start, min(start + step, size)


def cache_for(plan: Plan) -> Cache | None:
    """The cache, where the plan has a use for it and it is not turned off."""
    cache = Cache(needed=plan.cache_bytes) if plan.options.reuse and plan.cache_bytes else None
    return cache if cache is not None and cache.limit else None


class MergedTensor:
    """A tensor of a planned merge, computed when it is read; the bytes are those that a merge writes."""

    def __init__(self, plan: Plan, tensor: TensorPlan) -> None:
        self.name, self.shape, self.dtype = tensor.name, tensor.shape, tensor.dtype
        self.plan, self.tensor = plan, tensor
        self._work: Work | None = None

    def _prepared(self) -> Work:
        if self._work is None:
            options = self.plan.options
            reader = Reader(
                self.plan.models,
                device=options.device,
                allow_nonfinite=options.allow_nonfinite,
                cache=cache_for(self.plan),
            )
            self._work = work_of(self.tensor, reader, seed=self.plan.seed, block_values=options.block_values)
            self._work.prepare()
        return self._work

    def flat(self, start: int, stop: int) -> Any:
        """Values `start` to `stop`, in the output's type."""
        with one_thread_each(decomposes=bool(self.tensor.treatment)):
            size = itemsize(self.dtype)
            parts = [np.empty(0, np.uint8)]
            for first, last in self._prepared().ranges():
                if first < stop and last > start:
                    data = self._prepared().encoded(first, last).data
                    parts.append(data[max(0, start - first) * size : (stop - first) * size])
            return torch.from_numpy(np.concatenate(parts)).view(torch_dtype(self.dtype))

    def read(self) -> Any:
        """The whole tensor."""
        return self.flat(0, math.prod(self.shape)).reshape(self.shape)


def merged_checkpoint(plan: Plan, variant: Variant) -> Checkpoint:
    """The merged model as a mapping whose tensors are computed as they are read."""
    return Checkpoint(
        {n: MergedTensor(plan, t) for n, t in variant.tensors.items()}, variant.name or plan.recipe.source
    )
