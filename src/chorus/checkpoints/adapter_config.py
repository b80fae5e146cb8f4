"""What an adapter's config says of its tensors: rank and scale of each module, checked as PEFT would check them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NoReturn, TypeVar

from chorus.checkpoints.adapter_kinds import kind_of, refuse_changes, start_of
from chorus.checkpoints.adapter_names import split_name
from chorus.checkpoints.patterns import Patterns
from chorus.errors import CheckpointError
from chorus.plain import JsonObject

T = TypeVar("T")
MAX_NAMES = 2_000
FLAGS = ("use_rslora", "use_dora", "lora_bias", "fan_in_fan_out")


@dataclass(frozen=True)
class AdapterConfig:
    """One adapter's settings, in the words of this program. `where` is the file."""

    where: str
    adaptive: bool  # AdaLoRA
    start: str  # "pissa", "olora" or ""
    rank: int
    ranks: Patterns[int]
    kept: Mapping[str, int]  # AdaLoRA: by module, what was left of its rank
    alpha: float
    alphas: Patterns[float]
    rank_stabilised: bool
    dora: bool
    bias: bool
    transposed: bool
    saved: tuple[str, ...]  # modules_to_save

    def rank_of(self, module: str) -> int:
        """The rank that the module's factors must have; where they have another PEFT does not load them."""
        return self.kept.get(module, self.rank) if self.adaptive else self.ranks.value(module, self.rank)

    def scale_of(self, module: str, rank: int) -> float:
        """PEFT's scaling of a module: patterns first, then alpha; over the rank or its square root."""
        if self.adaptive:
            # over the rank that training began with, whatever was left; the small number is PEFT's
            return (self.alpha if self.alpha > 0 else float(rank)) / (self.rank + 1e-5)
        return self.alphas.value(module, self.alpha) / (math.sqrt(rank) if self.rank_stabilised else rank)


def read_config(config: JsonObject, where: str) -> AdapterConfig:
    """The settings of a LoRA or AdaLoRA; `CheckpointError` names the key that cannot be taken as it is."""
    adaptive = kind_of(config, where) == "ADALORA"
    refuse_changes(config, where)
    reader = _Reader(config, where)
    flags = {key: reader.flag(key) for key in FLAGS}
    masks = reader.masks() if adaptive else {}
    # 8 and 12: what PEFT takes where a config does not say
    rank = reader.rank("init_r", config.get("init_r", 12)) if adaptive else reader.rank("r", config.get("r", 8))
    return AdapterConfig(
        where=where,
        adaptive=adaptive,
        # AdaLoRA begins with a zero among its factors, whatever the key says
        start="" if adaptive else start_of(config, where),
        rank=rank,
        ranks=reader.patterns("rank_pattern", reader.rank) if not adaptive else Patterns({}),
        kept=masks,
        alpha=reader.number("lora_alpha", config.get("lora_alpha", 8)),
        alphas=reader.patterns("alpha_pattern", reader.number),
        rank_stabilised=flags["use_rslora"],
        dora=flags["use_dora"],
        bias=flags["lora_bias"],
        transposed=flags["fan_in_fan_out"],
        saved=reader.names("modules_to_save"),
    )


class _Reader:
    """Values of a config that somebody else has written."""

    def __init__(self, config: JsonObject, where: str) -> None:
        self.config, self.where = config, where

    def fail(self, key: str, wanted: str, value: object) -> NoReturn:
        raise CheckpointError(
            f"{self.where}: {key}: must be {wanted}, got {str(value)[:80]!r}", "save the adapter with PEFT again"
        )

    def flag(self, key: str) -> bool:
        value = self.config.get(key)
        # a text would be a truth to PEFT, "false" too
        if value is not None and not isinstance(value, bool):
            self.fail(key, "true or false", value)
        return bool(value)

    def rank(self, key: str, value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            self.fail(key, "a rank, a whole number from 1", value)
        return value

    def number(self, key: str, value: object) -> float:
        # Python's JSON takes NaN, and reads 1e400 as infinity
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            self.fail(key, "a finite number", value)
        return float(value)

    def patterns(self, key: str, check: Callable[[str, object], T]) -> Patterns[T]:
        try:
            return Patterns({pattern: check(f"{key}.{pattern[:80]}", v) for pattern, v in self._map(key).items()})
        except ValueError as error:
            raise CheckpointError(f"{self.where}: {key}: {error}", "write the modules' names in their place") from None

    def masks(self) -> dict[str, int]:
        """What AdaLoRA's rank pattern leaves of each module: a truth for each direction that training began with."""
        found = {}
        for name, mask in self._map("rank_pattern").items():
            module, slot = split_name(name) or ("", "")
            if slot != "e" or not isinstance(mask, list) or not all(isinstance(kept, bool) for kept in mask):
                self.fail(f"rank_pattern.{name[:80]}", "a list of true and false for the lora_E of a module", mask)
            found[module] = sum(mask)
        return found

    def names(self, key: str) -> tuple[str, ...]:
        value = self.config.get(key) or []
        if not isinstance(value, list) or not all(isinstance(name, str) and name for name in value):
            self.fail(key, "a list of modules' names", value)
        # each is looked for among all modules
        if len(value) > MAX_NAMES:
            self.fail(key, f"a list of at most {MAX_NAMES:,} names", f"{len(value):,}")
        return tuple(dict.fromkeys(value))

    def _map(self, key: str) -> JsonObject:
        value = self.config.get(key) or {}
        if not isinstance(value, dict):
            self.fail(key, "a map from modules' names", value)
        return value
