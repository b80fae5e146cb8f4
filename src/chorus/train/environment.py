"""What a training needs installed."""

from __future__ import annotations

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
