"""What the benchmarks share: checkpoints of real shapes with random weights, rivals, measurements, a report.

Checkpoints: base N(0, 0.02), fine-tunes with deltas of standard deviation 3e-4, all different, whose matrices have
a spectrum of j^-0.7 or a flat one. Page cache warm. CPU is user + system of the whole command; anonymous memory is
the peak of RssAnon summed over the process and its children.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
import venv
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml
from safetensors.torch import save_file

CHORUS = Path(sysconfig.get_path("scripts")) / "chorus"
CACHE = Path(os.environ.get("CHORUS_BENCH_CACHE", Path.home() / ".cache" / "chorus-bench"))
ENVIRONMENT = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}

QWEN_05B = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "vocab_size": 151936,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
}


def whisper_config(width: int, layers: int, vocabulary: int, mels: int) -> dict[str, object]:
    """The config of a Whisper size."""
    return {
        "architectures": ["WhisperForConditionalGeneration"],
        "model_type": "whisper",
        "d_model": width,
        "encoder_layers": layers,
        "decoder_layers": layers,
        "encoder_attention_heads": width // 64,
        "decoder_attention_heads": width // 64,
        "encoder_ffn_dim": 4 * width,
        "decoder_ffn_dim": 4 * width,
        "vocab_size": vocabulary,
        "num_mel_bins": mels,
        "max_source_positions": 1500,
        "max_target_positions": 448,
        "torch_dtype": "bfloat16",
    }


CONFIGS = {
    "qwen2.5-0.5b": QWEN_05B,
    "whisper-tiny": whisper_config(384, 4, 51865, 80),
    "whisper-small": whisper_config(768, 12, 51865, 80),
    "whisper-large-v3": whisper_config(1280, 32, 51866, 128),
}


def shapes_of(config: dict[str, object]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a model's stored tensors, from transformers on the meta device."""
    import transformers

    transformers.logging.set_verbosity_error()
    settings = transformers.AutoConfig.for_model(**config)
    with torch.device("meta"):
        model = getattr(transformers, config["architectures"][0])(settings)
    tied = set(getattr(model, "all_tied_weights_keys", {}))
    return {n: tuple(p.shape) for n, p in model.state_dict().items() if n not in tied}


def delta(shape: tuple[int, ...], spectrum: str, generator: torch.Generator) -> torch.Tensor:
    """A delta of standard deviation 3e-4; a matrix's singular values fall as j^-0.7, or are flat."""
    if spectrum == "flat" or len(shape) != 2 or min(shape) < 2 or max(shape) > 20_000:
        return torch.randn(shape, generator=generator) * 3e-4
    rank = min(shape)
    values = torch.arange(1, rank + 1, dtype=torch.float32) ** -0.7
    left = torch.randn(shape[0], rank, generator=generator)
    right = torch.randn(rank, shape[1], generator=generator)
    made = (left * values) @ right
    return made * (3e-4 / made.std())


def make_models(directory: Path, name: str, count: int, *, spectrum: str = "j^-0.7", seed: int = 0) -> list[Path]:
    """A base and `count` fine-tunes of real shapes in bfloat16; returns their directories, the base first."""
    config = CONFIGS[name]
    shapes = shapes_of(config)
    paths = []
    for i in range(count + 1):
        path = directory / f"{name}-{'base' if i == 0 else f'ft{i}'}"
        paths.append(path)
        if (path / "config.json").exists():
            continue
        path.mkdir(parents=True, exist_ok=True)
        base_numbers = torch.Generator().manual_seed(seed)
        own_numbers = torch.Generator().manual_seed(seed + 1000 + i)
        tensors = {}
        for tensor, shape in shapes.items():
            value = torch.randn(shape, generator=base_numbers) * 0.02
            if i:
                value += delta(shape, spectrum, own_numbers)
            tensors[tensor] = value.bfloat16()
        save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
        (path / "config.json").write_text(json.dumps(config))
    os.sync()  # what is still being written to the disk must not disturb the measurements
    return paths


@dataclass(frozen=True)
class Measured:
    """One run of a command."""

    cpu_s: float
    wall_s: float
    anonymous_bytes: int
    returncode: int
    error: str


def rss_anonymous(pid: int) -> int:
    """RssAnon of a process and all its children, in bytes."""
    total, pids = 0, [pid]
    while pids:
        current = pids.pop()
        try:
            for line in Path(f"/proc/{current}/status").read_text().splitlines():
                if line.startswith("RssAnon:"):
                    total += int(line.split()[1]) * 1024
            for task in Path(f"/proc/{current}/task").iterdir():
                pids += map(int, (task / "children").read_text().split())
        except (OSError, ValueError):
            continue
    return total


def measure(command: list[str | Path], **environment: str) -> Measured:
    """Run a command to its end; it must succeed."""
    errors = tempfile.TemporaryFile()  # noqa: SIM115  read after the process has ended
    started = time.perf_counter()
    process = subprocess.Popen(
        [str(part) for part in command], stdout=subprocess.DEVNULL, stderr=errors, env={**ENVIRONMENT, **environment}
    )
    peak = 0
    over = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not over.wait(0.1):
            peak = max(peak, rss_anonymous(process.pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    over.set()
    watcher.join()
    errors.seek(0)
    text = errors.read().decode(errors="replace")
    if process.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}\nfailed with {process.returncode}:\n{text[-2000:]}")
    return Measured(usage.ru_utime + usage.ru_stime, wall, peak, process.returncode, text)


def alternate(runs: dict[str, Callable[[], Measured]], repeats: int) -> dict[str, list[Measured]]:
    """Run the rivals in turn, `repeats` times each, after one unmeasured turn of ours (compile, page cache)."""
    found: dict[str, list[Measured]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            found[name].append(run())
    return found


def median(values: list[float]) -> float:
    return statistics.median(values)


def warm(paths: list[Path]) -> None:
    """Read the weight files once, so that the page cache holds them."""
    for path in paths:
        for file in path.glob("*.safetensors"):
            with file.open("rb", buffering=0) as stream:
                while stream.read(1 << 24):
                    pass


@contextmanager
def workplace() -> Iterator[Path]:
    """A directory for checkpoints and results, removed at the end (CHORUS_BENCH_DIR: kept there)."""
    kept = os.environ.get("CHORUS_BENCH_DIR")
    if kept:
        Path(kept).mkdir(parents=True, exist_ok=True)
        yield Path(kept)
        return
    with tempfile.TemporaryDirectory(prefix="chorus-bench-") as directory:
        yield Path(directory)


def write_recipe(path: Path, recipe: dict[str, object]) -> Path:
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))
    return path


def clean(path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True)
    shutil.rmtree(path.with_name(path.name + ".partial"), ignore_errors=True)


def mergekit() -> Path:
    """`mergekit-yaml` 0.1.5 in an environment of its own, its Whisper table mended (a missing dot)."""
    home = CACHE / "mergekit-0.1.5"
    program = home / "bin" / "mergekit-yaml"
    if not program.exists():
        print(f"installing mergekit 0.1.5 into {home.name}", file=sys.stderr)
        venv.create(home, with_pip=True, clear=True)
        pinned = f"torch=={torch.__version__.split('+')[0]}"
        subprocess.run([home / "bin" / "pip", "install", "-q", pinned, "mergekit==0.1.5"], check=True)
    for table in home.glob("lib/python*/site-packages/mergekit/_data/architectures/whisper.json"):
        text = table.read_text()
        table.write_text(text.replace('"model.decoder"', '"model.decoder."'))
    return program


def report(name: str, rows: list[dict[str, object]]) -> None:
    """Print the rows and keep them as JSON under benchmarks/results."""
    folder = Path(__file__).parent / "results"
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(rows, indent=1) + "\n")
    columns = list(rows[0])
    widths = [max(len(c), *(len(_text(r.get(c))) for r in rows)) for c in columns]
    print("  ".join(c.ljust(w) for c, w in zip(columns, widths, strict=True)))
    for row in rows:
        print("  ".join(_text(row.get(c)).ljust(w) for c, w in zip(columns, widths, strict=True)))


def _text(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
