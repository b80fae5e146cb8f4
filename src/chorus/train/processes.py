"""Which of several processes this is, as torchrun and `accelerate launch` tell it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


def is_main() -> bool:
    """Whether this process writes and speaks for all."""
    return os.environ.get("RANK", "0") == "0"


def count() -> int:
    """How many processes train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


@contextmanager
def main_first(device: str) -> Iterator[None]:
    """The main process goes through first, then the others see what it has done to the disk."""
    if count() == 1:
        yield
        return
    from accelerate import PartialState

    with PartialState(cpu=device == "cpu").main_process_first():
        yield
