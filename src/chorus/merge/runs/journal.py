"""What has been written so far, so that a killed merge goes on where it stopped.

One JSON line a finished tensor, appended after its last byte; the first line identifies the plan and the inputs.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TypedDict

from chorus.errors import OutputError
from chorus.identity import fingerprint
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
    loss: list[float]


class Journal:
    """The journal of one partial directory. `done` maps (variant, tensor) to its entry."""

    def __init__(self, directory: Path, plan_id: str, *, resume: bool) -> None:
        self.path = directory / NAME
        self.done: dict[tuple[str, str], FinishedTensor] = {}
        known, entries, whole_bytes = self._read() if resume else (None, [], 0)
        if known is not None and known != plan_id:
            raise OutputError(
                f"{directory}: holds another merge's unfinished result (recipe, inputs or settings differ)",
                "undo the change and use --resume, or start again with --overwrite",
            )
        for entry in entries:
            self.done[entry["variant"], entry["tensor"]] = entry
        # appended to, so that what an earlier run noted stays; begun anew where no whole line is there
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | (os.O_TRUNC if known is None else 0)
        self._file = os.open(self.path, flags, 0o644)
        if known is None:
            self._append({"plan": plan_id})
        else:
            os.ftruncate(self._file, whole_bytes)  # a line that was cut off by the kill

    def _read(self) -> tuple[str | None, list[FinishedTensor], int]:
        """(the plan's fingerprint, the finished tensors, bytes of whole lines); None where there is no journal."""
        lines, whole_bytes = [], 0
        for raw in self.path.read_bytes().splitlines(keepends=True) if self.path.exists() else []:
            if not raw.endswith(b"\n"):
                break
            try:
                lines.append(json.loads(raw))
            except ValueError:  # only the last line can be cut off: after a broken one nothing is trusted
                break
            whole_bytes += len(raw)
        return (str(lines[0].get("plan")), lines[1:], whole_bytes) if lines else (None, [], 0)

    def _append(self, entry: Mapping[str, object]) -> None:
        # one call: after a kill a line is whole, or is the last and has no line break. Not synced: a resume holds every
        # entry against the disk
        os.write(self._file, json.dumps(entry, separators=(",", ":")).encode() + b"\n")

    def record(self, entry: FinishedTensor) -> None:
        """Note that a tensor is written, in one append."""
        self.done[entry["variant"], entry["tensor"]] = entry
        self._append(entry)

    def close(self) -> None:
        os.close(self._file)
