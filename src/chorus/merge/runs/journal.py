"""What has been written so far, so that a killed merge goes on where it stopped.

One JSON line a finished tensor, appended after its last byte; the first line identifies the plan and the inputs.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from chorus.errors import OutputError
from chorus.identity import fingerprint
from chorus.merge.plan import Plan

NAME = ".chorus-journal.jsonl"


def plan_fingerprint(plan: Plan) -> str:
    """Changes with anything that the bytes of the result depend on, the state of the input files included."""
    outputs = []
    for v in plan.variants:
        headers = [shard.header.decode("latin1") for shard in v.shards]
        outputs.append([v.name, [repr(t) for t in v.tensors.values()], v.config, v.generation, headers])
    states = []
    for model in plan.sources:
        files = sorted([*model.paths.items(), *model.adapter_paths.items()])
        found = [(name, path.stat()) for name, path in files]
        states.append([model.identify() if model.identify else "", *((n, s.st_size, s.st_mtime_ns) for n, s in found)])
    chosen = [plan.seed, plan.options.allow_nonfinite, plan.options.device]
    return fingerprint(outputs=outputs, models=states, chosen=chosen)


class Journal:
    """The journal of one partial directory. `done` maps (variant, tensor) to its entry."""

    def __init__(self, directory: Path, plan_id: str, *, resume: bool) -> None:
        self.path = directory / NAME
        self.done: dict[tuple[str, str], dict[str, Any]] = {}
        lines = self._lines() if resume else []
        if lines and lines[0].get("plan") != plan_id:
            raise OutputError(
                f"{directory}: holds another merge's unfinished result (recipe, inputs or settings differ)",
                "undo the change and use --resume, or start again with --overwrite",
            )
        for entry in lines[1:]:
            self.done[entry["variant"], entry["tensor"]] = entry
        self._file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | (0 if lines else os.O_TRUNC), 0o644)
        if lines:
            os.ftruncate(self._file, self._whole_bytes)  # a line that was cut off by the kill
        else:
            self._append({"plan": plan_id})

    def _lines(self) -> list[dict[str, Any]]:
        self._whole_bytes = 0
        if not self.path.exists():
            return []
        lines = []
        for raw in self.path.read_bytes().splitlines(keepends=True):
            if not raw.endswith(b"\n"):
                break
            try:
                lines.append(json.loads(raw))
            except ValueError:
                break
            self._whole_bytes += len(raw)
        return lines

    def _append(self, entry: dict[str, Any]) -> None:
        os.write(self._file, json.dumps(entry, separators=(",", ":")).encode() + b"\n")

    def record(self, variant: str, tensor: str, **facts: Any) -> None:
        """Note that a tensor is written, in one append."""
        entry = {"variant": variant, "tensor": tensor, **facts}
        self.done[variant, tensor] = entry
        self._append(entry)

    def close(self) -> None:
        os.close(self._file)
