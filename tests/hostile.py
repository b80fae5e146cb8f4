"""Hostile and damaged inputs, made by a seed: commands on files of every kind that are not what they say.

A case is right where the command says in a line or two what is wrong (exit code 2 or 4; 1 of a check), in seconds and
little memory, with nothing under the output's name; or where it succeeds, and the result is that of the sound input.
`benchmarks/hostile.py` runs thousands, a test some hundreds.
"""

# ruff: noqa: E501  (tables of odd values, each on its line)

from __future__ import annotations

import functools
import itertools
import json
import os
import random
import shutil
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file, save_file

import commands
from adapters import make_adapters
from models import make_family
from results import made_up
from sounds import corpus

SECONDS, MEGABYTES, LINES = 10, 2000, 24
RAN = "ran"  # the file that a pickle makes where it is believed
PROGRAM = """
import json, resource, signal, sys, time
signal.alarm({seconds})
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + {more},) * 2)
from chorus.cli.main import run
started = time.monotonic()
code = run({arguments!r})
sys.stdout.flush()
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
open({facts!r}, "w").write(json.dumps([code, time.monotonic() - started, peak / 1000]))
sys.exit(code)
"""


@dataclass
class Case:
    """A command on an input that was made for it, in a folder of its own."""

    kind: str
    name: str
    arguments: list[str]
    output: Path | None = None
    sound: Path | None = None  # the result of the sound input: what a success must be
    refused: bool = False  # whether a success is wrong whatever comes of it
    env: dict[str, str] = field(default_factory=dict)


@dataclass
class Outcome:
    """`verdict`: clear, right, or what is wrong: unclear, silent, fault, hang, memory, left (something under the name)."""

    case: Case
    verdict: str
    code: int | None
    seconds: float
    megabytes: float
    told: str


def outcome(case: Case, place: Path) -> Outcome:
    """Run a case's command in a fork, with limits, and judge."""
    facts = place / "facts.json"
    program = PROGRAM.format(seconds=SECONDS, more=3_000_000_000, arguments=case.arguments, facts=str(facts))
    environment = {**os.environ, "CHORUS_CACHE": str(place / "cache"), "CHORUS_DEBUG": "0", **case.env}
    before = _held(case.output)
    done = commands.python(program, cwd=place, env=environment)
    code, seconds, megabytes = json.loads(facts.read_text()) if facts.exists() else (None, float(SECONDS), 0.0)
    told = done.stderr.strip()
    assert not (place / RAN).exists(), "a pickle was run"
    return Outcome(case, _verdict(case, code, megabytes, told, before), code, seconds, megabytes, told)


def _verdict(case: Case, code: int | None, megabytes: float, told: str, before: object) -> str:
    if code is None:
        return "hang"
    if megabytes > MEGABYTES or "out of memory" in told:
        return "memory"
    if "fault of Chorus" in told or "Traceback" in told:
        return "fault"
    if code == 0:
        good = not case.refused and (case.sound is None or _same(case.sound, case.output))
        return "right" if good else "silent"
    if before != _held(case.output):
        return "left"
    said = [line for line in told.splitlines() if line.startswith("error:")]
    clear = code in (1, 2, 4) and (code == 1 or (said and len(told.splitlines()) <= LINES and len(told) < 6000))
    return "clear" if clear and not any(ord(c) < 32 and c != "\n" for c in told) else "unclear"


def _held(output: Path | None) -> object:
    if output is None or not output.exists():
        return None
    return sorted((str(p), p.lstat().st_mtime_ns) for p in output.rglob("*")) if output.is_dir() else True


def _same(sound: Path, output: Path | None) -> bool:
    """Whether the weights are those of the sound input."""
    assert output is not None
    one, other = ({n: t for f in p.glob("*.safetensors") for n, t in load_file(f).items()} for p in (sound, output))
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


# ---- what is sound ----


class World:
    """Small sound inputs, made once, and copies of them to be damaged."""

    def __init__(self, place: Path) -> None:
        self.place = place
        family = make_family(place / "family", "qwen2", 2)
        self.base, (self.tuned, self.sharded) = family.base, family.tuned
        base, (self.adapter,) = make_adapters(place / "adapted", "qwen2", 1)
        self.adapter_base = base
        self.manifest, _ = corpus(place / "corpus", 6)
        self.evaluation = made_up(place, "evaluation", {"a": 3, "b": 5}, role="base").directory
        self.other = made_up(place, "other", {"a": 1, "b": 2}, role="merge").directory
        self.sound: dict[str, Path] = {}

    def merged(self, name: str, recipe: dict[str, Any], *flags: str) -> Path:
        """The result of a sound recipe."""
        if name not in self.sound:
            path = _write(self.place / f"{name}.yml", yaml.safe_dump(recipe))
            self.sound[name] = self.place / f"sound-{name}"
            environment = {**os.environ, "CHORUS_CACHE": str(self.place / "cache")}
            done = commands.chorus("merge", path, "-o", self.sound[name], "-q", *flags, env=environment)
            assert done.returncode == 0, done.stderr
        return self.sound[name]


def _write(path: Path, text: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text)
    return path


def linear(*models: object, **keys: Any) -> dict[str, Any]:
    return {
        "merge_method": "linear",
        "models": [{"model": str(m), "parameters": {"weight": 0.5}} for m in models],
        **keys,
    }


def _merge(world: World, place: Path, kind: str, name: str, *, model: Path | None = None, refused: bool = False,
           flags: tuple[str, ...] = ()) -> Case:  # fmt: skip
    """A merge of the base with a (damaged) model."""
    recipe = _write(place / "recipe.yml", yaml.safe_dump(linear(world.base, model or place / "model")))
    sound = world.merged("linear", linear(world.base, world.tuned))
    out = place / "out"
    return Case(kind, name, ["merge", str(recipe), "-o", str(out), "-q", *flags], out, sound, refused)


# ---- what is wrong with a thing ----

THINGS: dict[str, Callable[[Path], object]] = {
    "a pipe": os.mkfifo,
    "a device": lambda p: p.symlink_to("/dev/zero"),
    "a terminal": lambda p: p.symlink_to("/dev/tty"),
    "a folder": Path.mkdir,
    "a link to itself": lambda p: p.symlink_to(p.name),
    "a link to nowhere": lambda p: p.symlink_to("nowhere"),
    "a file of /proc": lambda p: p.symlink_to("/proc/self/mem"),
    "a socket": lambda p: _socket(p),
    "empty": lambda p: p.write_bytes(b""),
    "a terabyte": lambda p: (p.write_bytes(b"{"), os.truncate(p, 1 << 40)),
    "zeros": lambda p: p.write_bytes(bytes(5000)),
    "noise": lambda p: p.write_bytes(random.Random(0).randbytes(5000)),
    "a million brackets": lambda p: p.write_bytes(b"[" * 1_000_000),
    "a hundred thousand keys": lambda p: p.write_text(json.dumps({f"key {i}": i for i in range(100_000)})),
}


def _socket(path: Path) -> None:
    before = Path.cwd()
    os.chdir(path.parent)  # the address of a socket is short
    try:
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(path.name)
    finally:
        os.chdir(before)


def becomes(path: Path, thing: str) -> None:
    """Put another thing in a file's place."""
    path.unlink(missing_ok=True)
    THINGS[thing](path)


DEEP = functools.reduce(lambda inner, _: [inner], range(60), [])
WRONG: list[Any] = [
    None, True, False, -1, 0, 1, 3.5, 1e30, 10**9, 10**30, float("nan"), float("inf"), "", "x", "x" * 300, "~nosuchuser",
    "nul\0", "\x1b[31mred", "../../etc/passwd", [], {}, [None], [[]], {"": None}, DEEP, ["x"] * 1000,
    {"a": {"b": {}}}, "é\u202e", list(range(50)),
]  # fmt: skip


def damaged(document: Any, rng: random.Random) -> tuple[Any, str]:
    """A document with one value replaced, taken away, or moved to another key; and what was done."""
    document = json.loads(json.dumps(document))
    places = list(_places(document))
    if not places:
        return rng.choice(WRONG), "replaced"
    holder, key = rng.choice(places)
    what = rng.choice(["replace"] * 6 + ["remove", "rename"])
    told = f"{what} {key}"
    if what == "remove":
        del holder[key]
    elif what == "rename" and isinstance(holder, dict):
        holder[rng.choice(["", "x" * 300, "\x1b[2J", "nul\0", "__class__"])] = holder.pop(key)
    else:
        value = rng.choice(WRONG)
        holder[key] = value
        told = f"replace {key} by {str(value)[:20]!r}"
    return document, told


def _places(document: Any) -> Iterator[tuple[Any, Any]]:
    items = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    for key, value in list(items):
        yield document, key
        yield from _places(value)


def spoiled(data: bytes, rng: random.Random) -> tuple[bytes, str]:
    """Bytes of which some are flipped, cut off, doubled or put in."""
    what = rng.choice(["flip", "cut", "double", "insert", "head"])
    at = rng.randrange(max(1, len(data)))
    if what == "flip":
        flipped = bytearray(data)
        for _ in range(rng.choice([1, 8])):
            flipped[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        return bytes(flipped), what
    if what == "head":
        flipped = bytearray(data)
        flipped[rng.randrange(min(200, len(data)))] ^= 1 << rng.randrange(8)
        return bytes(flipped), what
    return {"cut": data[:at], "double": data[:at] + data, "insert": data[:at] + rng.randbytes(9) + data[at:]}[
        what
    ], what


# ---- kinds ----

Maker = Callable[[World, Path, random.Random], Case]
KINDS: dict[str, Maker] = {}


def kind(maker: Maker) -> Maker:
    KINDS[maker.__name__.replace("_", " ")] = maker
    return maker


FILES = {
    "model": ["config.json", "model.safetensors", "README.md", "generation_config.json", "tokenizer.json",
              "tokenizer_config.json", "preprocessor_config.json", "model.safetensors.index.json", "LICENSE",
              "vocab.json", "merges.txt", "chat_template.jinja", "added_tokens.json"],
    "adapter": ["adapter_config.json", "adapter_model.safetensors", "README.md"],
}  # fmt: skip


@kind
def no_file(world: World, place: Path, rng: random.Random) -> Case:
    """Another thing in the place of a model's, an adapter's or a recipe's file."""
    thing, name = (
        rng.choice(list(THINGS)),
        rng.choice([*FILES["model"], *FILES["adapter"][:2], "recipe", "shard", "bin"]),
    )
    told = f"{name} is {thing}"
    if name in FILES["adapter"]:
        shutil.copytree(world.adapter, place / "adapter")
        becomes(place / "adapter" / name, thing)
        return _adapted(world, place, "no file", told, refused=name != "README.md")
    if name == "shard":
        shutil.copytree(world.sharded, place / "model")
        becomes(sorted((place / "model").glob("model-0*"))[0], thing)
        return _merge(world, place, "no file", told, refused=True)
    shutil.copytree(world.tuned, place / "model")
    if name == "recipe":
        case = _merge(world, place, "no file", told, refused=True)
        becomes(place / "recipe.yml", thing)
        return case
    if name == "bin":
        (place / "model" / "model.safetensors").unlink()
        becomes(place / "model" / "pytorch_model.bin", thing)
        return _merge(world, place, "no file", told, refused=True, flags=("--allow-pickle",))
    becomes(place / "model" / name, thing)
    return _merge(world, place, "no file", told, refused=name in ("config.json", "model.safetensors"))


def _adapted(world: World, place: Path, kind: str, name: str, *, refused: bool = False) -> Case:
    recipe = {"merge_method": "linear", "models": [
        {"model": str(world.adapter_base), "lora": str(place / "adapter"), "parameters": {"weight": 1.0}}
    ]}  # fmt: skip
    path = _write(place / "recipe.yml", yaml.safe_dump(recipe))
    recipe["models"][0]["lora"] = str(world.adapter)
    sound, out = world.merged("adapted", recipe), place / "out"
    return Case(kind, name, ["merge", str(path), "-o", str(out), "-q"], out, sound, refused)


@kind
def configs(world: World, place: Path, rng: random.Random) -> Case:
    """A config, or the index of shards, with something else in it."""
    model = rng.choice([world.tuned, world.sharded])
    shutil.copytree(model, place / "model")
    index = place / "model" / "model.safetensors.index.json"
    path = (
        index
        if index.exists() and rng.random() < 0.5
        else place / "model" / rng.choice(["config.json"] * 3 + ["generation_config.json"])
    )
    document, told = damaged(json.loads(path.read_text()), rng)
    path.write_text(json.dumps(document))
    case = _merge(world, place, "configs", f"{path.name}: {told}")
    if model is world.sharded:
        case.sound = world.merged("sharded", linear(world.base, world.sharded))
    return case


@kind
def headers(world: World, place: Path, rng: random.Random) -> Case:
    """Weights whose header was changed, or whose bytes were."""
    shutil.copytree(world.tuned, place / "model")
    path = place / "model" / "model.safetensors"
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    if rng.random() < 0.3:
        spoilt, told = spoiled(data[: 8 + length], rng)
        path.write_bytes(spoilt + data[8 + length :])
        # a flipped letter of a name is another name; of an offset, nothing that fits
        return _merge(world, place, "headers", told, refused=True)
    document, told = damaged(json.loads(data[8 : 8 + length]), rng)
    raw = json.dumps(document).encode()
    path.write_bytes(len(raw).to_bytes(8, "little") + raw + data[8 + length :])
    return _merge(world, place, "headers", told, refused="__metadata__" not in told and "format" not in told)


@kind
def sizes(world: World, place: Path, rng: random.Random) -> Case:
    """Numbers that nobody should believe."""
    many = rng.choice([20_000, 100_000])
    shutil.copytree(world.tuned, place / "model")
    config = json.loads((place / "model" / "config.json").read_text())
    way = rng.choice(["layers", "width", "vocabulary", "dimensions", "names", "same names", "long name", "models", "outputs",
                      "keys", "filters", "slices", "yaml", "line", "laugh", "index"])  # fmt: skip
    if way in ("layers", "width", "vocabulary"):
        key = {"layers": "num_hidden_layers", "width": "hidden_size", "vocabulary": "vocab_size"}[way]
        _write(place / "model" / "config.json", json.dumps({**config, key: rng.choice([10**6, 10**9, 10**18])}))
        return _merge(world, place, "sizes", way, refused=True)
    if way in ("dimensions", "names", "same names", "long name"):
        entry = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
        if way == "dimensions":
            text = json.dumps({"a": {**entry, "shape": [1] * 3_000_000}})
        elif way == "long name":
            text = json.dumps({"a" * 20_000_000: entry})
        elif way == "names":
            text = json.dumps(
                {f"a{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(many)} | {"z": entry}
            )
        else:
            text = "{" + ", ".join(['"a": ' + json.dumps(entry)] * (many // 2)) + "}"
        _write(place / "model" / "model.safetensors", len(text).to_bytes(8, "little") + text.encode() + bytes(4))
        return _merge(world, place, "sizes", way, refused=True)
    if way == "index":
        names = {f"a{i}": f"shard-{i}.safetensors" for i in range(many)}
        (place / "model" / "model.safetensors").unlink()
        _write(place / "model" / "model.safetensors.index.json", json.dumps({"weight_map": names}))
        return _merge(world, place, "sizes", way, refused=True)
    recipe: Any = linear(world.base, world.tuned)
    if way == "models":
        recipe["models"] *= rng.choice([5_000, 20_000])
    elif way == "outputs":
        recipe = [{**linear(world.base, world.tuned), "name": f"out-{i}"} for i in range(many // 10)]
    elif way == "keys":
        recipe |= {f"key{i}": i for i in range(many // 3)}
    elif way == "filters":
        recipe["models"][0]["parameters"]["weight"] = [{"filter": f"x{i}", "value": 1} for i in range(many // 5)]
    elif way == "slices":
        one = {"sources": [{"model": str(world.base), "layer_range": [0, 10**9]}]}
        recipe = {"merge_method": "passthrough", "slices": [one] * rng.choice([1, 2000])}
    text = json.dumps(recipe)
    if way == "outputs":
        text = "\n---\n".join(json.dumps(one) for one in recipe)
    elif way == "yaml":
        text += "\n" + "# comment\n" * 20_000_000
    elif way == "line":
        text = "a: " + "x" * 100_000_000
    elif way == "laugh":
        text = _laugh(text, rng)
    path, out = _write(place / "recipe.yml", text), place / "out"
    return Case("sizes", way, ["merge", str(path), "-o", str(out), "-q"], out, refused=True)


def _laugh(text: str, rng: random.Random) -> str:
    names = [f"a{i}" for i in range(12)]
    lines = [f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]" for a, b in itertools.pairwise(names)]
    return "a0: &a0 [lol, lol]\n" + "\n".join(lines) + f"\nmerge_method: linear\nmodels: *{rng.choice(names[6:])}\n"


@kind
def recipes(world: World, place: Path, rng: random.Random) -> Case:
    """A recipe with something else in it."""
    made = rng.choice([
        linear(world.base, world.tuned),
        {"merge_method": "ties", "base_model": str(world.base), "dtype": "float32",
         "models": [{"model": str(m), "parameters": {"weight": 0.5, "density": 0.6}} for m in (world.tuned, world.sharded)],
         "parameters": {"normalize": True, "lambda": 1.0}},
        {"merge_method": "slerp", "base_model": str(world.base), "models": [{"model": str(world.base)}, {"model": str(world.tuned)}],
         "parameters": {"t": [{"filter": "self_attn", "value": [0, 0.5]}, {"value": 0.5}]}},
        {"merge_method": "passthrough", "slices": [{"sources": [{"model": str(world.base), "layer_range": [0, 2]}]},
                                                   {"sources": [{"model": str(world.tuned), "layer_range": [1, 4]}]}]},
    ])  # fmt: skip
    document, told = damaged(made, rng)
    path, out = _write(place / "recipe.yml", yaml.safe_dump(document, allow_unicode=True)), place / "out"
    return Case("recipes", f"{made['merge_method']}: {told}", ["merge", str(path), "-o", str(out), "-q"], out)


TYPES = ["!!int abc", "!!float x", "!!bool maybe", "!!timestamp now", "!!binary x", "!!set {a}", "!!python/name:os.system",
         "2024-13-45", "0x", "1e999", ".nan", "&a [*a]", "!!str [a]", "!!map x", "? [a]", "'", "\t", "<<", "*none",
         "!!int " + "9" * 5000, "|", "%", "@", "`", "\x07", "\ud800"]  # fmt: skip


@kind
def yaml_types(world: World, place: Path, rng: random.Random) -> Case:
    """Values of YAML that are not what their tag says."""
    value, key = rng.choice(TYPES), rng.choice(["weight", "method", "model", "key", "dtype"])
    lines = {"weight": "0.5", "method": "linear", "model": str(world.tuned), "dtype": "float32"}
    lines |= {key: value}
    text = (
        f"merge_method: {lines['method']}\nout_dtype: {lines['dtype']}\nmodels:\n- model: {world.base}\n  parameters: {{weight: 0.5}}\n"
        f"- model: {lines['model']}\n  parameters:\n    weight: {lines['weight']}\n{lines.get('key', '')}\n"
    )
    path, out = _write(place / "recipe.yml", text), place / "out"
    return Case("yaml types", f"{key}: {value[:30]}", ["merge", str(path), "-o", str(out), "-q"], out, refused=True)


PATTERNS = [
    "(.*)*x",
    "(a+)+$",
    "[",
    "(",
    "(?P<a",
    "*",
    "a{99999999}",
    "(?:" * 500,
    "(q|q)*_proj",
    "\\",
    ".*" * 40 + "x",
]


@kind
def adapters(world: World, place: Path, rng: random.Random) -> Case:
    """An adapter's config with something else in it, or patterns that take for ever."""
    shutil.copytree(world.adapter, place / "adapter")
    path = place / "adapter" / "adapter_config.json"
    config = json.loads(path.read_text())
    if rng.random() < 0.4:
        key = rng.choice(["alpha_pattern", "rank_pattern", "target_modules", "exclude_modules", "layers_pattern"])
        pattern = rng.choice(PATTERNS)
        config[key] = {pattern: 4} if key.endswith("pattern") and key != "layers_pattern" else pattern
        told = f"{key}: {pattern[:20]}"
    else:
        config, told = damaged(config, rng)
    path.write_text(json.dumps(config))
    case = _adapted(world, place, "adapters", told)
    if "alpha" in told or "rslora" in told or told.endswith(" r"):
        case.sound = None  # another scale, as it says
    return case


DTYPES = [
    torch.int64,
    torch.int8,
    torch.uint8,
    torch.bool,
    torch.float16,
    torch.bfloat16,
    torch.float64,
    torch.complex64,
]


@kind
def factors(world: World, place: Path, rng: random.Random) -> Case:
    """An adapter's tensors of other types and shapes."""
    shutil.copytree(world.adapter, place / "adapter")
    told = _spoil_tensors(place / "adapter" / "adapter_model.safetensors", rng)
    case = _adapted(world, place, "factors", told, refused="float" not in told)
    case.sound = None  # where a type was only rounded, the result is another
    return case


@kind
def tensors(world: World, place: Path, rng: random.Random) -> Case:
    """A model's tensors of other types and shapes."""
    shutil.copytree(world.tuned, place / "model")
    told = _spoil_tensors(place / "model" / "model.safetensors", rng)
    case = _merge(world, place, "tensors", told, refused="float" not in told)
    case.sound = None
    return case


def _spoil_tensors(path: Path, rng: random.Random) -> str:
    """Write a file's tensors anew, one or all of them other than they were; and what was done."""
    tensors = load_file(path)
    told = _spoil(tensors, rng)
    save_file(tensors, path, {"format": "pt"})
    return told


def _spoil(tensors: dict[str, torch.Tensor], rng: random.Random) -> str:
    name = rng.choice(sorted(tensors))
    old = tensors[name]
    way = rng.choice(
        [
            "dtype",
            "dtype",
            "scalar",
            "flat",
            "empty",
            "turned",
            "nan",
            "inf",
            "gone",
            "collision",
            "more",
            "long name",
            "steering",
            "all int",
        ]
    )
    if way == "dtype":
        dtype = rng.choice(DTYPES)
        tensors[name] = old.to(dtype)
        return f"{name} in {dtype}"
    if way == "all int":
        for one in tensors:
            tensors[one] = tensors[one].to(torch.int64)
        return "all in int64"
    new = {"scalar": torch.tensor(1.0), "flat": old.reshape(-1)[:-1].clone(), "empty": torch.zeros(0), "nan": old * float("nan"),
           "inf": old / 0, "turned": old.T.contiguous().clone() if old.dim() == 2 and old.shape[0] != old.shape[1] else torch.zeros(3)}  # fmt: skip
    if way in new:
        tensors[name] = new[way]
    elif way == "collision":
        tensors[f"_orig_mod.{name}"] = old * 2
    elif way == "gone":
        del tensors[name]
    else:
        added = {"more": "nobody.weight", "long name": f"{name}{'x' * 2000}", "steering": f"{name}\x1b[2J"}[way]
        tensors[added] = old.clone()
    return f"{name} {way}"


@kind
def pickles(world: World, place: Path, rng: random.Random) -> Case:
    """What may lie in a `.bin`."""
    shutil.copytree(world.tuned, place / "model")
    state: Any = load_file(place / "model" / "model.safetensors")
    (place / "model" / "model.safetensors").unlink()
    name = sorted(state)[3]
    old = state[name]
    ways: dict[str, Callable[[], Any]] = {
        "nested": lambda: {"model": {"state_dict": state}},
        "deep": lambda: {"state_dict": {"state_dict": state}},
        "meta": lambda: {**state, name: old.to("meta")},
        "sparse": lambda: {**state, name: old.to_sparse()},
        "quantised": lambda: {**state, name: torch.quantize_per_tensor(old, 0.1, 0, torch.qint8)},
        "bool": lambda: {**state, name: old > 0},
        "complex": lambda: {**state, name: old.to(torch.complex64)},
        "integers": lambda: {**state, name: old.to(torch.int32)},
        "scalar": lambda: {**state, name: torch.tensor(3.0)},
        "a list": lambda: list(state.values()),
        "a number": lambda: 3,
        "nothing": dict,
        "numbers for names": lambda: dict(enumerate(state.values())),
        "texts": lambda: {**state, name: "text"},
        "collision": lambda: {**state, f"module.{name}": old * 2},
        "code": lambda: Malice(),
        "steering": lambda: {**state, "\x1b[2J": old},
    }
    way = rng.choice([*ways, "bytes"])
    path = place / "model" / "pytorch_model.bin"
    torch.save(ways.get(way, lambda: state)(), path)
    if way == "bytes":
        data, told = spoiled(path.read_bytes(), rng)
        path.write_bytes(data)
        case = _merge(world, place, "pickles", f"bytes, {told}", refused=told in ("cut",), flags=("--allow-pickle",))
        case.sound = None  # a bit of a value may be any: no checksum is there to tell
        return case
    return _merge(world, place, "pickles", way, refused=way not in ("nested",), flags=("--allow-pickle",))


class Malice:
    """Would run a command where a pickle is believed."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {RAN}",)  # in the case's folder


CELLS = ["", "\0", "\x1b[31m", "x" * 2000, "nan", "inf", "-1", "1e999", "9" * 400, '"', "é", "\u202e", "/dev/zero", "../..",
         "~nosuchuser/a.wav", "a,b", "\ud800", "<|endoftext|>", "0x10", "１", "true"]  # fmt: skip


@kind
def manifests(world: World, place: Path, rng: random.Random) -> Case:
    """Tables with cells, rows or whole contents that are none."""
    lines = world.manifest.read_text().splitlines()
    suffix = rng.choice([".csv", ".csv", ".tsv", ".jsonl", ".json", ".parquet"])
    folder = world.manifest.parent
    way = rng.choice(["cell", "cell", "cell", "bytes", "thing", "long line", "columns", "header"])
    path = place / f"manifest{suffix}"
    rows = [line.split(",") for line in lines]
    separator = "\t" if suffix == ".tsv" else ","
    if way == "cell":
        rows[rng.randrange(len(rows))][rng.randrange(len(rows[0]))] = rng.choice(CELLS)
    elif way == "columns":
        rows = [row + ["x"] * 50_000 for row in rows]
    elif way == "header":
        rows[0] = rng.choice([["path"] * len(rows[0]), rows[0][::-1], ["", *rows[0][1:]], [c.upper() for c in rows[0]]])
    if suffix in (".jsonl", ".json"):
        text = "\n".join(json.dumps(dict(zip(rows[0], row, strict=False))) for row in rows[1:])
    else:
        text = "\n".join(separator.join(row) for row in rows) + "\n"
    if way == "long line":
        text += "x" * 50_000_000
    _write(path, text)
    if way == "bytes":
        path.write_bytes(spoiled(path.read_bytes(), rng)[0])
    elif way == "thing":
        thing = rng.choice(list(THINGS))
        becomes(path, thing)
        way = thing
    command = rng.choice([["data", "check"], ["data", "describe"], ["data", "split"]])
    more = ["-o", str(place / "out.csv")] if command[1] == "split" else []
    return Case("manifests", f"{command[1]}, {suffix}: {way}", [*command, str(path), "--audio-dir", str(folder), *more])


@kind
def recordings(world: World, place: Path, rng: random.Random) -> Case:
    """Audio that is none, or much more than it seems."""
    import numpy as np
    import soundfile

    shutil.copytree(world.manifest.parent, place / "corpus")
    path = place / "corpus" / "audio" / "000.flac"
    way = rng.choice([*THINGS, "bytes", "bytes", "silence", "channels", "rate", "nan", "nothing"])
    if way in THINGS:
        becomes(path, way)
    elif way == "bytes":
        path.write_bytes(spoiled(path.read_bytes(), rng)[0])
    elif way == "silence":
        soundfile.write(path, np.zeros(16_000 * 1800, np.int16), 16_000)
    elif way == "channels":
        soundfile.write(path, np.zeros((16_000 * 60, 8), np.int16), 16_000)
    elif way == "rate":
        soundfile.write(path, np.zeros(16_000, np.int16), rng.choice([1, 655_350]))
    elif way == "nan":
        soundfile.write(path.with_suffix(".wav"), np.full(16_000, np.nan, np.float32), 16_000, subtype="FLOAT")
        path.with_suffix(".wav").rename(path)
    else:
        soundfile.write(path, np.zeros(0, np.int16), 16_000)
    command = rng.choice([["data", "check"], ["data", "describe"]])
    return Case("recordings", f"{command[1]}: {way}", [*command, str(place / "corpus" / "manifest.csv")])


@kind
def cards(world: World, place: Path, rng: random.Random) -> Case:
    """Front matter that is no map of texts."""
    shutil.copytree(world.tuned, place / "model")
    text = rng.choice([
        _laugh("", rng), "license: [a, b]", "license: {a: b}", "language: 3", "language: {a: 1}", "license: !!int x", "a: " + "[" * 3000,
        "license: \x1b[2J", "license: " + "x" * 100_000, "pipeline_tag: [1]", "license: &a [*a]", "- a", "x" * 3_000_000, "language: [no, [a]]",
    ])  # fmt: skip
    _write(place / "model" / "README.md", f"---\n{text}\n---\n# A model\n")
    return _merge(world, place, "cards", text[:30])


@kind
def outputs(world: World, place: Path, rng: random.Random) -> Case:
    """Places where no result can be, all within the case's folder: a fault of ours must not cost more than that."""
    (place / "file").write_text("mine")
    (place / "full").mkdir()
    (place / "full" / "mine").write_text("mine")
    (place / "loop").symlink_to("loop")
    base, tuned, recipe = place / "input", world.tuned, place / "recipe.yml"
    shutil.copytree(world.base, base)
    recipe.write_text(yaml.safe_dump(linear(base, tuned)))
    shutil.copytree(world.evaluation, place / "evaluation")
    name = rng.choice([".", "..", "", "file/below", "loop", "n" * 300, "n" * 250, "nul\0", "input", "input/..", "file", "full",
                       "/".join(["n" * 250] * 20)])  # fmt: skip
    # never --overwrite where a fault of ours would take away another case's
    flags = rng.choice([[], ["--overwrite"]]) if name not in ("full", "..") else []
    pair = ["--model", str(tuned), "--base", str(base)]
    one, manifest = str(place / "evaluation"), str(world.manifest)
    command = rng.choice([
        ["merge", str(recipe), "-o", name, *rng.choice([flags, ["--resume"]])], ["merge", str(recipe), "-o", name, *flags],
        ["merge", str(recipe), "-o", name, "--as", "adapter", "--max-rank", "2", *flags],
        ["extract", "lora", *pair, "--max-rank", "2", "-o", name, *flags], ["extract", "task-vector", *pair, "-o", name, *flags],
        ["apply", str(base), str(tuned), "-o", name, *flags],
        *([["compare", one, "-o", f"{name}.md"], ["compare", one, "--plots", name], ["data", "split", manifest, "-o", f"{name}.csv"],
           ["data", "manifest", str(world.manifest.parent), "-o", f"{name}.csv"], ["data", "describe", manifest, "--plot", f"{name}.png"]]
          if name not in (".", "..", "full", "input", "file", "", "input/..") else []),
    ])  # fmt: skip
    return Case(
        "outputs",
        f"{' '.join(command[:2])[:14]} -o {name[:20]!r} {' '.join(flags)}",
        [*command, "-q"],
        refused=command[0] in ("merge", "extract", "apply"),
    )


@kind
def names(world: World, place: Path, rng: random.Random) -> Case:
    """Models, manifests and caches under names that are none."""
    name = rng.choice(["nul\0", "n" * 300, "n" * 5000, "~nosuchuser/x", "\x1b[2J", "a\nb", "/dev/zero", "/dev/tty", "/proc/self/mem", "/proc", "",
                       " ", "+", "@", "a@b@c", "a+b+c", "..", "https://x/y", "a/b/c", "x.yml", "x.yml:y", "x.pt", "\ud800"])  # fmt: skip
    recipe, out = place / "recipe.yml", place / "out"
    model: Any = rng.choice(
        [
            name,
            {"model": name},
            {"path": name},
            {"model": {"path": name, "revision": name}},
            {"model": str(world.base), "lora": name},
        ]
    )
    recipe.write_text(
        json.dumps(linear(world.base, world.tuned) | {"base_model": model, "merge_method": "task_arithmetic"})
    )
    typed = name.replace("\ud800", "")
    command = rng.choice([
        ["merge", str(recipe), "-o", str(out)], ["plan", str(recipe)], ["merge", typed, "-o", str(out)], ["plan", typed],
        ["extract", "lora", "--model", typed, "--base", str(world.base), "-o", str(out), "--max-rank", "2"],
        ["apply", str(world.base), typed, "-o", str(out)], ["data", "check", typed], ["data", "describe", typed], ["compare", typed],
        ["gate", typed, "--max-wer", "9"], ["train", typed, "--print-config"], ["experiment", typed, "--dry-run"],
        ["evaluate", str(world.base), "--data", typed, "-o", str(out)], ["evaluate", typed, "--data", str(world.manifest), "-o", str(out)],
        ["data", "manifest", typed, "-o", str(place / "x.csv")], ["data", "split", typed, "-o", str(place / "x.csv")],
    ])  # fmt: skip
    return Case("names", f"{' '.join(command[:2])[:14]} {name[:20]!r}", command, out, refused=True)


@kind
def caches(world: World, place: Path, rng: random.Random) -> Case:
    """A cache's directory that is none."""
    thing = rng.choice([*THINGS, "nothing"])
    where = place / "store"
    if thing in THINGS:
        becomes(where, thing)
    limit = rng.choice(["", "1", "9" * 30 + "GB", "20GB"])
    recipe = {"merge_method": "tsv_m", "base_model": str(world.base), "out_dtype": "float32",
              "models": [{"model": str(m), "parameters": {"weight": 0.5}} for m in (world.tuned, world.sharded)]}  # fmt: skip
    path, out = _write(place / "recipe.yml", yaml.safe_dump(recipe)), place / "out"
    command = rng.choice([["merge", str(path), "-o", str(out), "-q"], ["cache"], ["cache", "clear"], ["doctor"]])
    merges = command[0] == "merge"
    env = {"CHORUS_CACHE": str(where), "CHORUS_CACHE_LIMIT": limit}
    return Case(
        "caches",
        f"{command[0]}: {thing}, {limit[:9]}",
        command,
        out if merges else None,
        world.merged("tsv", recipe) if merges else None,
        env=env,
    )


@kind
def journals(world: World, place: Path, rng: random.Random) -> Case:
    """An unfinished merge of which something was changed before `--resume`."""
    case = _merge(world, place, "journals", "", model=world.tuned, flags=("--resume",))
    partial = place / "out.partial"
    shutil.copytree(_unfinished(world), partial)
    journal = partial / ".chorus-journal.jsonl"
    way = rng.choice(["bytes", "bytes", "line", "line", "thing", "foreign", "weights"])
    if way == "bytes":
        journal.write_bytes(spoiled(journal.read_bytes(), rng)[0])
    elif way == "line":
        lines = journal.read_text().splitlines()
        number = rng.randrange(len(lines))
        document, way = damaged(json.loads(lines[number]), rng)
        lines[number] = json.dumps(document)
        journal.write_text("\n".join(lines) + "\n")
    elif way == "thing":
        thing = rng.choice(list(THINGS))
        name = rng.choice([journal.name, "model.safetensors", "config.json"])
        becomes(partial / name, thing)
        way = f"{name} is {thing}"
        case.refused = name == "config.json"
    elif way == "foreign":
        name = rng.choice(
            ["model.safetensors.index.json", "tokenizer.json", "model-00001-of-00002.safetensors", "x/y.json"]
        )
        _write(partial / name, "{}")
        way, case.refused = f"foreign {name}", True
    else:
        path = partial / "model.safetensors"
        path.write_bytes(spoiled(path.read_bytes(), rng)[0])
    case.name = way
    return case


def _unfinished(world: World) -> Path:
    """What a kill leaves of the sound merge: weights and half a journal."""
    if "unfinished" not in world.sound:
        place = world.place / "unfinished"
        recipe = _write(place / "recipe.yml", yaml.safe_dump(linear(world.base, world.tuned)))
        code = (
            "from chorus.merge.runs.journal import Journal\nimport os, sys\nold = Journal.record\n"
            "def record(self, entry):\n    old(self, entry)\n    if len(self.done) == 9: os._exit(9)\n"
            f"Journal.record = record\nfrom chorus.cli.main import run\nrun(['merge', {str(recipe)!r}, '-o', {str(place / 'out')!r}, '-j', '1'])"
        )
        done = commands.python(code)
        assert done.returncode == 9, done.stderr
        world.sound["unfinished"] = place / "out.partial"
    return world.sound["unfinished"]


@kind
def kept(world: World, place: Path, rng: random.Random) -> Case:
    """A cache of which something was changed."""
    models = [{"model": str(m), "parameters": {"weight": 0.5}} for m in (world.tuned, world.sharded)]
    recipe = {"merge_method": "tsv_m", "base_model": str(world.base), "models": models, "out_dtype": "float32"}
    sound = world.merged("tsv", recipe)
    shutil.copytree(world.place / "cache", place / "cache", dirs_exist_ok=True)
    entries = sorted((place / "cache").rglob("*.safetensors"))
    assert len(entries) > 5
    way = rng.choice(["bytes", "bytes", "swapped", "numbers", *THINGS])
    for path in rng.sample(entries, 5):
        if way == "bytes":
            path.write_bytes(spoiled(path.read_bytes(), rng)[0])
        elif way == "swapped":
            shutil.copyfile(rng.choice(entries), path)
        elif way == "numbers":
            save_file({n: t * rng.choice([0.0, float("nan"), 2.0]) for n, t in load_file(path).items()}, path)
        else:
            becomes(path, way)
    path, out = _write(place / "recipe.yml", yaml.safe_dump(recipe)), place / "out"
    return Case("kept", way, ["merge", str(path), "-o", str(out), "-q"], out, sound)


@kind
def evaluations(world: World, place: Path, rng: random.Random) -> Case:
    """Results of an evaluation that were changed."""
    shutil.copytree(world.evaluation, place / "evaluation")
    shutil.copytree(world.other, place / "other")
    path = rng.choice(sorted(p for p in (place / "evaluation").iterdir() if p.is_file()))
    way = rng.choice(["value", "value", "value", "bytes", "thing", "rows"])
    if way == "thing":
        way = rng.choice(list(THINGS))
        becomes(path, way)
    elif way == "bytes":
        path.write_bytes(spoiled(path.read_bytes(), rng)[0])
    elif path.suffix == ".jsonl" or way == "rows":
        path = place / "evaluation" / "results.jsonl" if path.suffix != ".jsonl" else path
        lines = path.read_text().splitlines()
        number = rng.randrange(len(lines))
        document, way = damaged(json.loads(lines[number]), rng)
        lines[number] = json.dumps(document)
        path.write_text("\n".join(lines[: rng.choice([0, len(lines), len(lines)])]) + "\n")
    elif path.suffix == ".json":
        document, way = damaged(json.loads(path.read_text()), rng)
        path.write_text(json.dumps(document))
    one, other = str(place / "evaluation"), str(place / "other")
    command = rng.choice(
        [
            ["compare", one, other],
            ["gate", one, "--max-wer", "99"],
            ["gate", other, "--against", one, "--max-regression", "99"],
        ]
    )
    return Case("evaluations", f"{command[0]}, {path.name}: {way}", command)


TRAIN = {"model": {"base": "BASE"}, "output": "OUT", "seed": 1, "train": {"steps": 1, "batch_size": 2, "learning_rate": 1e-4},
         "data": {"train": "MANIFEST", "dev": None}}  # fmt: skip


@kind
def settings(world: World, place: Path, rng: random.Random) -> Case:
    """Settings of a training or an experiment with something else in them."""
    document: Any = json.loads(
        json.dumps(TRAIN)
        .replace("MANIFEST", str(world.manifest))
        .replace("BASE", str(world.base))
        .replace("OUT", str(place / "out"))
    )
    command = ["train", "--print-config"]
    if rng.random() < 0.5:
        document = {"name": "x", "output": str(place / "out"), "manifest": str(world.manifest), "base": {"model": str(world.base)},
                    "domains": {"d0": {"where": {"domain": "d0"}}, "d1": {"where": {"domain": "d1"}}}, "merges": ["linear"], "seeds": [1]}  # fmt: skip
        command = ["experiment", "--dry-run"]
    thing = rng.choice([*THINGS, *[""] * 40])
    document, told = damaged(document, rng)
    path = _write(place / "settings.yml", yaml.safe_dump(document, allow_unicode=True))
    if thing:
        becomes(path, thing)
    return Case("settings", f"{command[0]}: {thing or told}", [*command, str(path)])


@kind
def side_files(world: World, place: Path, rng: random.Random) -> Case:
    """Tokenizers, processors and generation settings that are none."""
    shutil.copytree(world.base, place / "model")
    name = rng.choice(
        [
            *FILES["model"][3:7],
            "vocab.json",
            "merges.txt",
            "added_tokens.json",
            "special_tokens_map.json",
            "processor_config.json",
        ]
    )
    sound: dict[str, Any] = {"model": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": ["a b", ["a", "b"]]},
                             "added_tokens": [{"content": "x", "id": 2}], "feature_extractor_type": "WhisperFeatureExtractor",
                             "feature_extractor": {"feature_size": 80}, "eos_token_id": 1}  # fmt: skip
    document, told = damaged(sound, rng)
    _write(place / "model" / name, json.dumps(document))
    recipe = _write(place / "recipe.yml", yaml.safe_dump(linear(place / "model", world.tuned)))
    sound_result, out = world.merged("linear", linear(world.base, world.tuned)), place / "out"
    return Case("side files", f"{name}: {told}", ["merge", str(recipe), "-o", str(out), "-q"], out, sound_result)


@kind
def deltas(world: World, place: Path, rng: random.Random) -> Case:
    """What extract and apply are given."""
    shutil.copytree(world.tuned, place / "model")
    path, out = place / "model" / "model.safetensors", place / "out"
    if rng.random() < 0.3:
        told = rng.choice(list(THINGS))
        becomes(path, told)
    else:
        told = _spoil_tensors(path, rng)
    refused = "float" not in told
    command = rng.choice([
        ["extract", "lora", "--model", str(place / "model"), "--base", str(world.base), "-o", str(out), "-q", "--max-rank", "2"],
        ["extract", "task-vector", "--model", str(place / "model"), "--base", str(world.base), "-o", str(out), "-q"],
        ["apply", str(world.base), str(place / "model"), "-o", str(out), "-q"],
    ])  # fmt: skip
    return Case("deltas", f"{' '.join(command[:2])[:12]}: {told}", command, out, refused=refused)


def cases(
    world: World, place: Path, count: int, seed: int, kinds: list[str] | None = None
) -> Iterator[tuple[Case, Path]]:
    """So many cases, the kinds in turn, each in a folder that goes when the next is asked for."""
    names = kinds or list(KINDS)
    for number in range(count):
        name = names[number % len(names)]
        folder = place / f"case-{number}"
        folder.mkdir(parents=True)
        yield KINDS[name](world, folder, random.Random(f"{seed} {name} {number // len(names)}")), folder
        shutil.rmtree(folder, ignore_errors=True)
