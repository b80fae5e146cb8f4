"""What is asked of a system: recordings, conditions, a decoding, a runtime, a device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from chorus.data.manifest import Row
from chorus.identity import fingerprint
from chorus.tasks.protocol import Chooses, Task
from chorus.tasks.registry import TASKS
from chorus.transcribe.backends.protocol import PROMPT
from chorus.transcribe.conditions import CLEAN
from chorus.transcribe.decoding import Decoding
from chorus.transcribe.systems import System
from chorus.transcribe.test_sets import TestSet

FORMAT = 3  # of rows and summaries on disk
Key = tuple[str, str]  # (name of an utterance, condition)


def _asked(task: Task, row: Row) -> tuple[object, ...]:
    """What is compared with, and of labels which there are and how they are asked for."""
    told = task.reference(row), task.written(row)
    return (*told, task.labels(row), task.instruction(row)) if isinstance(task, Chooses) else told


@dataclass
class Request:
    """One system on one test set, one way."""

    system: System
    test: TestSet
    decoding: Decoding = field(default_factory=Decoding)
    conditions: Sequence[str] = (CLEAN,)
    backend: str = "transformers"
    device: str = "cpu"

    @property
    def fingerprint(self) -> str:
        """Everything that the hypotheses depend on, and what they are compared with."""
        task = TASKS.get(self.decoding.task)
        rows = [u.row for u in self.test.utterances.values()]
        return fingerprint(
            results=FORMAT, system=self.system.identity, test=self.test.fingerprint,
            references=[(*_asked(task, row), row.get(PROMPT)) for row in rows],
            decoding=self.decoding.model_dump(), conditions=list(self.conditions), backend=self.backend,
            device=self.device.split(":")[0],
        )  # fmt: skip

    @property
    def keys(self) -> list[Key]:
        """Every utterance under every condition, in the order of the results."""
        return [(name, condition) for condition in self.conditions for name in self.test.utterances]
