"""What models run in: the device, the seeds, and libraries that keep their voices down."""

from __future__ import annotations

import os
import random
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from chorus.errors import ChorusError


def pick_device(asked: str) -> str:
    """The device that is asked for, or the best that is there."""
    import torch

    if asked == "auto":
        if torch.cuda.is_available():
            return "cuda"
        if hasattr(torch, "xpu") and torch.xpu.is_available():
            return "xpu"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    there: dict[str, Callable[[], bool]] = {
        "cuda": torch.cuda.is_available,
        "xpu": lambda: hasattr(torch, "xpu") and torch.xpu.is_available(),
        "mps": torch.backends.mps.is_available,
        "cpu": lambda: True,
    }
    kind, _, index = asked.partition(":")
    if not there[kind]():
        raise ChorusError(f"device {asked}: not there", "chorus doctor lists the devices; --device auto takes the best")
    if kind == "cuda" and index:  # read when CUDA starts, which it has not yet; accelerate takes the first it sees
        os.environ["CUDA_VISIBLE_DEVICES"] = index
    return kind


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

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    level = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            transformers_logging.set_verbosity(level)
