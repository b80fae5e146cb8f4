"""What a training runs in: packages, device, seeds, and libraries that keep their voices down."""

from __future__ import annotations

import os
import random
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from chorus.errors import ChorusError, MissingExtraError, UsageError, nearest

REPORTERS = ("tensorboard", "wandb", "mlflow")  # names of their packages too


def need_extra() -> None:
    """Raise `MissingExtraError` where the packages of training are not installed."""
    try:
        import accelerate  # noqa: F401
        import jiwer  # noqa: F401
        import soundfile  # noqa: F401
    except (ImportError, OSError):
        raise MissingExtraError("train", "training") from None


def need_reporters(names: list[str]) -> None:
    """Raise before anything is loaded where `train.report_to` names what is unknown or not installed."""
    for name in names:
        if name not in REPORTERS:
            raise UsageError(f'train.report_to: unknown "{name}"{nearest(name, REPORTERS)}')
        if find_spec(name) is None:
            raise ChorusError(f"train.report_to: {name} is not installed", f"pip install {name}")


def need_optimizer(name: str) -> None:
    """Raise where transformers knows no such optimizer."""
    from transformers.training_args import OptimizerNames

    known = [one.value for one in OptimizerNames]
    if name not in known:
        found = nearest(name, known)
        raise UsageError(f'train.optimizer: unknown "{name}"{found if "did you mean" in found else ""}')


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
