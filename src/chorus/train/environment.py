"""What a training needs installed."""

from __future__ import annotations

from importlib.util import find_spec

from chorus.errors import MissingExtraError, MissingPackageError, UsageError, nearest

OPTIMIZERS = {  # what the names of transformers' optimizers begin with -> (module, package); the others are torch's
    "adamw_torch_4bit": ("torchao", "torchao"), "adamw_torch_8bit": ("torchao", "torchao"),
    "adamw_torch_xla": ("torch_xla", "torch_xla"), "adamw_torch_npu": ("torch_npu", "torch_npu"),
    "adamw_anyprecision": ("torchdistx", "torchdistx"),
    **dict.fromkeys(
        ("adamw_bnb", "adamw_8bit", "ademamix", "lion", "paged", "rmsprop_bnb"), ("bitsandbytes", "bitsandbytes")
    ),
    "galore": ("galore_torch", "galore-torch"), "apollo": ("apollo_torch", "apollo-torch"),
    "lomo": ("lomo_optim", "lomo-optim"), "adalomo": ("lomo_optim", "lomo-optim"),
    "grokadamw": ("grokadamw", "grokadamw"), "schedule_free": ("schedulefree", "schedulefree"),
    "stable_adamw": ("optimi", "torch-optimi"),
}  # fmt: skip
REPORTERS = ("tensorboard", "wandb", "mlflow")  # names of their packages too


def need_extra() -> None:
    """Raise `MissingExtraError` where the packages of training are not installed."""
    try:
        import accelerate  # noqa: F401 - only whether they can be imported
        import jiwer  # noqa: F401 - the same
        import soundfile  # noqa: F401 - the same
    except (ImportError, OSError):
        raise MissingExtraError("train", "training") from None


def need_reporters(names: list[str]) -> None:
    """Raise before anything is loaded where `train.report_to` names what is unknown or not installed."""
    for name in names:
        if name not in REPORTERS:
            raise UsageError(f'train.report_to: unknown "{name}"{nearest(name, REPORTERS)}')
        if find_spec(name) is None:
            raise MissingPackageError(name, f"train.report_to: {name}")


def need_optimizer(name: str) -> None:
    """Raise where transformers knows no such optimizer, or where its package is not installed."""
    from transformers.training_args import OptimizerNames

    known = [one.value for one in OptimizerNames]
    if name not in known:
        found = nearest(name, known)
        raise UsageError(f'train.optimizer: unknown "{name}"{found if "did you mean" in found else ""}')
    for beginning, (module, package) in OPTIMIZERS.items():
        if name.startswith(beginning) and find_spec(module) is None:
            raise MissingPackageError(package, f"train.optimizer: {name}")
