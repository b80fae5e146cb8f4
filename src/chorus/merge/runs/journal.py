"""What has been written so far, so that a killed merge goes on where it stopped.

An entry a finished tensor, appended after its last byte, under what identifies the plan and the inputs; and one of the
side files, before they are put into their places.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Annotated, cast

from pydantic import AfterValidator, Field
from typing_extensions import TypedDict  # pydantic reads typing's own from Python 3.12 on

from chorus.checkpoints.writer import explained
from chorus.errors import OutputError
from chorus.identity import fingerprint
from chorus.ledger import Ledger
from chorus.merge.plan import Plan

NAME = ".chorus-journal.jsonl"


def plan_fingerprint(plan: Plan) -> str:
    """Changes with anything that the bytes of the result depend on, the state of the input files included."""
    outputs = []
    for v in plan.variants:
        # one character a byte, since a fingerprint is taken of JSON
        headers = [shard.header.decode("latin1") for shard in v.shards]
        outputs.append([v.name, [repr(t) for t in v.tensors.values()], v.config, v.generation, headers])
    states = []
    for model in plan.sources:
        files = sorted([*model.paths.items(), *model.adapter_paths.items()])
        # size and time, not content: hashing would read every input once more before a resume
        found = [(name, path.stat()) for name, path in files]
        states.append([model.identify() if model.identify else "", *((n, s.st_size, s.st_mtime_ns) for n, s in found)])
    # threads, blocks and the memory budget change no byte, so a resume may have others; a device's sums differ
    chosen = [plan.seed, plan.options.allow_nonfinite, plan.options.device]
    return fingerprint(outputs=outputs, models=states, chosen=chosen)


class FinishedTensor(TypedDict):
    """A finished tensor: digests of what was written and read, and what the cast lost (see `Encoded`)."""

    variant: str
    tensor: str
    digest: str
    inputs: dict[str, str]
    loss: Annotated[list[float], Field(min_length=3, max_length=3)]


def _inside(name: str) -> str:
    # a resume takes these files away
    if "\0" in name or ".." in (parts := PurePath(name).parts) or not parts or PurePath(name).is_absolute():
        raise ValueError("outside the directory")
    return name


class SideFiles(TypedDict):
    """What an earlier run has put, or was about to put, beside the weights."""

    side_files: list[Annotated[str, AfterValidator(_inside)]]


class Journal:
    """The journal of one partial directory. `done` maps (variant, tensor) to its entry.

    `side_files` are those that an earlier run has put, or was about to put, beside the weights.
    """

    def __init__(self, directory: Path, plan_id: str, *, resume: bool) -> None:
        self.done: dict[tuple[str, str], FinishedTensor] = {}
        self.side_files: list[str] = []
        self._ledger = Ledger(directory / NAME, plan_id, SideFiles | FinishedTensor, resume=resume)
        if self._ledger.other is not None:
            raise OutputError(
                f"{directory}: holds another merge's unfinished result (recipe, inputs or settings differ)",
                "undo the change and use --resume, or start again with --overwrite",
            )
        for entry in self._ledger.entries:
            if "side_files" in entry:
                self.side_files += entry["side_files"]
            else:
                self.done[entry["variant"], entry["tensor"]] = cast("FinishedTensor", entry)
        with explained(directory):
            self._ledger.start()

    def record(self, entry: FinishedTensor) -> None:
        """Note that a tensor is written, in one append."""
        self.done[entry["variant"], entry["tensor"]] = entry
        self._ledger.append(entry)

    def record_side_files(self, names: Sequence[str]) -> None:
        """Note what is about to be put beside the weights, so that another run knows it for its own."""
        self.side_files = list(names)
        self._ledger.append({"side_files": list(names)})

    def close(self) -> None:
        self._ledger.close()
