"""The flags that `chorus merge` and `chorus plan` share, mergekit-yaml's among them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from chorus.checkpoints.shards import DEFAULT_SHARD_BYTES
from chorus.cli.flags import device_flag, jobs_flag, offline_flag, pickle_flag
from chorus.errors import UsageError
from chorus.merge.options import DEFAULT_BUDGET_BYTES, Options
from chorus.sizes import parse_size

F = TypeVar("F", bound=Callable[..., object])

# mergekit-yaml's flags that ask for what Chorus always or never does; they are accepted and named in one note
IDLE_FLAGS = {
    "allow_crimes": "models of different architectures are refused",
    "lora_merge_cache": "adapters are applied while they are read",
    "lora_merge_dtype": "adapters are applied in float32",
    "low_cpu_memory": "memory is bounded by --memory-budget",
    "read_to_gpu": "tensors stream to the device",
    "multi_gpu": "one device is used",
    "gpu_rich": "one device is used; --device cuda chooses it",
    "lazy_unpickle": ".bin files need --allow-pickle",
    "async_write": "writing is spread over the threads",
    "write_threads": "writing is spread over the threads",
    "safe_serialization": "the result is always safetensors",
    "clone_tensors": "tensors share no memory",
    "trust_remote_code": "code from models is never run",
    "verbose": "the plan shows more",
}
# these take a value; the rest are on or off, or counted
IDLE_VALUES = ("lora_merge_cache", "lora_merge_dtype", "write_threads")


if TYPE_CHECKING:
    IntType = click.ParamType[int]
else:
    IntType = click.ParamType  # click made it generic in 8.4; older ones do as well


class Size(IntType):
    """A number of bytes, as `500MB`, `5GB`, `1GiB`."""

    name = "size"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):  # the default
            return value
        try:
            return parse_size(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


def merge_options(command: F) -> F:
    """Add the shared flags to a command; it gets them as `flags`, to be read by `options_of`."""
    decorators = [
        device_flag("cpu"),
        jobs_flag("--num-threads"),
        click.option(
            "--memory-budget", type=Size(), default=DEFAULT_BUDGET_BYTES, help="Working memory.  [default: 512MiB]"
        ),
        click.option(
            "--max-shard-size",
            "--out-shard-size",
            type=Size(),
            default=DEFAULT_SHARD_BYTES,
            help="Largest weight file.  [default: 5GB]",
        ),
        # hidden: it changes no byte and hardly the speed, and serves tests of just that
        click.option("--block-size", type=click.IntRange(1), hidden=True, help="Values read at a time."),
        click.option("--seed", "--random-seed", type=int, help="Seed of random methods; overrides the recipe's."),
        pickle_flag,
        click.option("--allow-nonfinite", is_flag=True, help="Merge inputs that hold NaN or infinity."),
        click.option(
            "--truncate-vocabulary",
            "--unsafe-truncate-embeddings",
            is_flag=True,
            help="Cut unequal vocabularies to their common first rows.",
        ),
        click.option("--no-cache", is_flag=True, help="Neither use nor fill the cache of spectra."),
        offline_flag,
        click.option("--cache-dir", "--transformers-cache", metavar="DIR", help="The hub's cache."),
        click.option("--cuda", is_flag=True, hidden=True, help="As --device cuda."),
    ]
    for name in IDLE_FLAGS:
        flag = f"--{name.replace('_', '-')}"
        if name in IDLE_VALUES:  # these take a value, which must not be read as the recipe
            decorators.append(click.option(flag, hidden=True))
        elif name == "verbose":
            decorators.append(click.option("-v", flag, hidden=True, count=True))
        else:
            # None tells that neither form was given: a flag that asks for what holds is still named
            decorators.append(click.option(f"{flag}/--no-{name.replace('_', '-')}", hidden=True, default=None))
    # mergekit's negative forms of flags that Chorus has: they say what holds anyway
    for negative in ("cuda", "allow-pickle", "truncate-vocabulary"):
        decorators.append(click.option(f"--no-{negative}", is_flag=True, hidden=True, expose_value=False))
    for decorate in reversed(decorators):  # decorators are applied from below
        command = decorate(command)
    return command


def options_of(flags: dict[str, Any], **more: Any) -> Options:
    """The options that the shared flags ask for."""
    block = {"block_values": flags["block_size"]} if flags.get("block_size") else {}
    if flags["cuda"] and flags["device"] not in ("cpu", "cuda"):  # cpu is the default, and may not have been said
        raise UsageError(f"--cuda and --device {flags['device']} contradict each other", "drop one of them")
    return Options(
        device="cuda" if flags["cuda"] else flags["device"],
        jobs=flags["jobs"],
        memory_budget_bytes=flags["memory_budget"],
        max_shard_bytes=flags["max_shard_size"],
        seed=flags["seed"],
        allow_pickle=flags["allow_pickle"],
        allow_nonfinite=flags["allow_nonfinite"],
        truncate_vocabulary=flags["truncate_vocabulary"],
        offline=flags["offline"],
        cache_dir=flags["cache_dir"],
        reuse=not flags["no_cache"],
        **block,
        **more,
    )


def idle_note(flags: dict[str, Any]) -> str:
    """One line that names the given flags that have no effect here, and why; empty where there are none."""
    # -v is counted from 0, pairs are None where they are not given: only what was asked for is named
    given = [name for name in IDLE_FLAGS if flags.get(name) not in (None, 0, ())]
    reasons = [f"--{name.replace('_', '-')} ({IDLE_FLAGS[name]})" for name in given]
    return f"note: without effect here: {', '.join(reasons)}" if reasons else ""
