"""What models run in: devices, cores, seeds, and libraries that keep their voices down."""

from __future__ import annotations

import os
import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from chorus.errors import UsageError

DEVICES = ("auto", "cpu", "cuda", "mps", "xpu")
HINT = "`chorus doctor` lists the devices; --device auto takes the best"
NUMBERED = ("cuda", "xpu")
MOST_THREADS = 8  # beyond which disks and memory are the limit
VISIBLE = "CUDA_VISIBLE_DEVICES"
_claimed: dict[str, str] = {}  # what was asked for -> what this process calls it


def device_parts(text: str) -> tuple[str, int | None]:
    """Kind and number of a device's name; `ValueError` where it is none.

    >>> device_parts("cuda:1"), device_parts("cpu")
    (('cuda', 1), ('cpu', None))
    """
    kind, colon, number = text.partition(":")
    if kind not in DEVICES or (colon and not (kind in NUMBERED and number.isdecimal())):
        raise ValueError(f'unknown device "{text}"; known: auto, cpu, cuda, cuda:1, mps, xpu')
    return kind, int(number) if colon else None


def pick_device(asked: str) -> str:
    """The device that is asked for as torch names it, or the best that is there (`auto`).

    `UsageError` where the name is unknown or the device is not in this machine.
    """
    try:
        kind, number = device_parts(asked)
    except ValueError as error:
        raise UsageError(str(error), HINT) from None
    if kind == "auto":
        return next(k for k in ("cuda", "xpu", "mps", "cpu") if _count(k))
    if _count(kind) <= (number or 0):
        raise UsageError(f"device {asked}: not there", HINT)
    return asked


def _count(kind: str) -> int:
    """How many devices of a kind there are."""
    if kind == "cpu":
        return 1
    import torch

    if kind == "mps":
        return int(torch.backends.mps.is_available())
    found = getattr(torch, kind)
    return int(found.device_count()) if found.is_available() else 0


def claim_device(asked: str) -> str:
    """As `pick_device`, and of several GPUs this process sees only the one asked for, as plain `cuda`.

    For transformers' Trainer, which spreads over all that it sees. To be called before CUDA starts, since it reads
    the variable only then; `UsageError` where it has started with several.
    """
    if asked in _claimed:
        return _claimed[asked]
    kind, _, number = asked.partition(":")
    if kind != "cuda" or not number.isdecimal():
        return pick_device(asked)
    import torch

    seen = torch.cuda.device_count()  # from the driver's books, which does not start CUDA; is_available would
    if int(number) >= seen:
        raise UsageError(f"device {asked}: not there", HINT)
    before = os.environ.get(VISIBLE)
    # numbers count what this process sees: of a scheduler's 4,5 the device 1 is 5
    name = before.split(",")[int(number)] if before else number
    os.environ[VISIBLE] = name
    if seen > 1 and torch.cuda.device_count() > 1:
        os.environ.pop(VISIBLE)
        if before:
            os.environ[VISIBLE] = before
        raise UsageError(
            f"device {asked}: CUDA has started in this process with {seen} devices", f"start it with {VISIBLE}={name}"
        )
    _claimed[asked] = kind
    return kind


def cores() -> int:
    """How many processor cores this process may use."""
    # not cpu_count alone: containers and schedulers may bind a process to fewer cores than there are
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def threads(asked: int | None = None) -> int:
    """How many threads to work with: as asked for, else the cores, up to eight."""
    return asked or min(cores(), MOST_THREADS)  # 0 is "not said" too


def seed_everything(seed: int) -> None:
    """Python's, numpy's and torch's own generators, which libraries below draw from."""
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """transformers, datasets and PEFT tell their own users much; ours get what concerns them."""
    from transformers.utils import logging as transformers_logging

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # or tokenizers warns at every fork of a data loader
    level = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            transformers_logging.set_verbosity(level)
