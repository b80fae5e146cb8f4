"""A task vector: every difference of a fine-tune to its base, as safetensors with where it comes from."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from chorus.checkpoints.dtypes import itemsize, torch_dtype
from chorus.checkpoints.model import OpenOptions
from chorus.checkpoints.open import Source
from chorus.checkpoints.output_place import refuse_input
from chorus.checkpoints.safetensors_header import build_header
from chorus.checkpoints.salmonn import low_rank_of
from chorus.checkpoints.shards import Stored
from chorus.checkpoints.sidecar import write_json
from chorus.checkpoints.task_vector import LEFT, RIGHT, TASK_VECTOR
from chorus.checkpoints.ties import tied_in
from chorus.checkpoints.writer import OutputFile, appearing_whole
from chorus.errors import UsageError
from chorus.extract.pair import Counterparts, Selection, blocks, open_pair
from chorus.lazy import lazy
from chorus.linalg.low_rank import LowRank, inner, low_rank_sum
from chorus.progress import Progress

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")


@dataclass(frozen=True)
class TaskVectorResult:
    """What was written: tensors, bytes, the norm of the whole difference, what a reader must know."""

    directory: Path
    tensors: int
    bytes_written: int
    norm: float
    warnings: list[str] = field(default_factory=list)


def extract_task_vector(
    model: Source,
    base: Source,
    output: str | Path,
    *,
    selection: Selection | None = None,
    dtype: str = "float32",
    overwrite: bool = False,
    options: OpenOptions | None = None,
    progress: Progress = lambda done, total: None,
) -> TaskVectorResult:
    """Write theta - theta_0, tensor by tensor, in `dtype`. `chorus apply` adds it to any model of these shapes.

    `model` and `base` are whatever `chorus.open_model` takes, a plan or recipe too.

    Raises `CheckpointError` for models that do not fit each other, `UsageError` where nothing is selected.

    >>> import chorus
    >>> chorus.extract_task_vector("tuned", "whisper-small", "vector")  # doctest: +SKIP
    TaskVectorResult(directory=PosixPath('vector'), ...)
    """
    pair = open_pair(model, base, options)
    refuse_input(Path(output), [*pair.model.places, *pair.base.places])
    chosen = selection or Selection()
    # by name: the same difference is the same bytes, whichever order the base's file has
    jobs = sorted(pair.tensors(chosen), key=lambda job: job.name)
    if not jobs:
        raise UsageError("no tensor is selected", "widen --include, or drop --encoder-only and the like")
    thin = {job.name: found for job in jobs if (found := _thin(job)) is not None}
    stored = [one for job in jobs for one in _entries(job, dtype, thin.get(job.name))]
    header, starts = build_header(stored)
    size = itemsize(dtype)
    total = len(header) + sum(math.prod(shape) * size for _, _, shape in stored)
    directory = Path(output)
    squares, done = 0.0, 0
    wanted = torch_dtype(dtype)
    with appearing_whole(directory, overwrite=overwrite) as partial:
        partial.check_space(total)
        file = OutputFile(partial.path / TASK_VECTOR, header, total)
        with torch.inference_mode():
            for job in jobs:
                for name, start, values, square in _values(job, thin.get(job.name), pair.model.label):
                    squares += square
                    raw = values.to(wanted).contiguous().view(torch.uint8).numpy()
                    file.write(raw, starts[name] + start * size)
                    done += raw.nbytes
                    progress(done, total)
        file.close()
        facts = {"dtype": dtype, "norm": squares**0.5, "tensors": len(jobs), "selection": vars(chosen)}
        facts["tied"] = tied_in(pair.base)  # which copies have their sources' differences
        write_json(partial.path / "chorus.json", pair.provenance("task_vector", **facts))
    return TaskVectorResult(directory, len(jobs), total, squares**0.5, pair.warnings)


def _thin(job: Counterparts) -> LowRank | None:
    """A difference as factors, where both are products of LoRA's and no more (SALMONN's): else it is as they lie."""
    mine, its = low_rank_of(job.tensor), low_rank_of(job.origin)
    return low_rank_sum([mine, its], [1.0, -1.0]) if mine is not None and its is not None else None


def _entries(job: Counterparts, dtype: str, thin: LowRank | None) -> list[Stored]:
    if thin is None:
        return [(job.name, dtype, job.shape)]
    return [
        (f"{job.name}{LEFT}", dtype, tuple(thin.left.shape)),
        (f"{job.name}{RIGHT}", dtype, tuple(thin.right.shape)),
    ]


def _values(job: Counterparts, thin: LowRank | None, label: str) -> Iterator[tuple[str, int, torch.Tensor, float]]:
    """(entry, start, values, what they add to the squared norm) of a difference."""
    if thin is None:
        for start, values in blocks(job, label):
            # of the difference itself, not of what `dtype` leaves of it
            yield job.name, start, values, float(values.double().square().sum())
        return
    # whole: thin as they are, and the norm is of both together
    yield f"{job.name}{LEFT}", 0, thin.left.reshape(-1), inner(thin, thin)
    yield f"{job.name}{RIGHT}", 0, thin.right.reshape(-1), 0.0
