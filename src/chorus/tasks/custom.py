"""custom: whatever a manifest asks: its columns `instruction`, `answer` and, where answers are labels, `choices`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from chorus.errors import DataError
from chorus.tasks.answers import METRICS, InWords

if TYPE_CHECKING:
    from chorus.tasks.protocol import Asked

INSTRUCTION = "instruction"


class Custom(InWords):
    """The task; `{choices}` in an instruction stands for the row's labels."""

    def instruction(self, row: Asked) -> str:
        asked = row.get(INSTRUCTION).strip()
        if not asked:
            raise DataError(f"{row}: task custom: no instruction", f"give the column {INSTRUCTION}")
        return asked.replace("{choices}", ", ".join(self.labels(row)))


CUSTOM = Custom(
    name="custom",
    summary="what the manifest asks",
    spellings=("question", "instruction"),
    question="",
    columns=("text",),
    metrics=METRICS,
)
