"""Many trainings at once: those that `jobs.py` plans, each GPU taking one at a time.

Each is a process of its own (on the CPU a fork of one that has imported everything, see warm.py) with a configuration
of its own under `logs`; what is finished is not trained again.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue

from chorus.errors import ChorusError
from chorus.runtime import cores, pick_device
from chorus.train.config import TrainConfig
from chorus.train.facts import TrainedJson
from chorus.train.jobs import Job
from chorus.train.layers import as_yaml
from chorus.train.warm import Fork, WarmProcess

Note = Callable[[str], None]
Child = subprocess.Popen[str] | Fork
INTERRUPTED = 130  # the exit code of a command that Ctrl-C ended
GRACE_S = 5.0  # that an interrupted training has to end by itself


def run_jobs(
    jobs: Sequence[Job], *, parallel: int | None = None, settings: Mapping[str, bool] | None = None,
    note: Note = lambda text: None, ended: Callable[[Job], None] = lambda job: None,
) -> list[TrainedJson]:  # fmt: skip
    """Run the trainings, some at once, each GPU taking one at a time. Results in the order of the jobs.

    `ended` is called, from the thread of its training, whenever one has succeeded.

    A training that fails does not stop the others; at the end `ChorusError` names all that failed.
    """
    devices = [] if jobs and jobs[0].config.device == "cpu" else _devices()
    count = parallel or max(1, len(devices))
    free: Queue[str | None] = Queue()
    for i in range(count):
        free.put(devices[i % len(devices)] if devices else None)
    results: dict[str, TrainedJson] = {}
    failures: dict[str, str] = {}
    threads = max(1, cores() // count)
    stop = threading.Event()  # set by Ctrl-C: nothing more is begun
    children: set[Child] = set()
    warm = WarmProcess(environment=_environment(None, threads)) if len(jobs) > 1 and _may_fork(jobs[0].config) else None

    def run(job: Job) -> None:
        while job.after and job.after not in results and not stop.is_set():
            if job.after in failures:
                failures[job.name] = f"{job.after} before it failed"
                return
            time.sleep(0.05)
        device = free.get()
        try:
            if stop.is_set():
                return
            results[job.name] = _run_one(job, device, threads, settings or {}, note, children, warm)
            ended(job)
        except ChorusError as error:
            failures[job.name] = error.message
            if not stop.is_set():
                note(f"{job.name}: {error.message}")
        except BaseException:  # before the device is free for another
            stop.set()
            raise
        finally:
            free.put(device)

    with ThreadPoolExecutor(max(1, len(jobs))) as pool:  # those that wait cost nothing
        try:
            list(pool.map(run, jobs))
        except BaseException:
            stop.set()
            _end(children)
            raise
        finally:
            if warm is not None:
                warm.close()
    if failures:
        told = "\n".join(f"  {name}: {why}" for name, why in failures.items())
        raise ChorusError(
            f"{len(failures)} of {len(jobs)} trainings failed\n{told}",
            "mend it and give the same command: the others are kept",
        )
    return [results[job.name] for job in jobs]


def _devices() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    import torch

    if not torch.cuda.is_available():
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return visible.split(",") if visible else [str(i) for i in range(torch.cuda.device_count())]


def _may_fork(config: TrainConfig) -> bool:
    """Whether trainings may be forks of a process that has imported torch."""
    device = pick_device("auto") if config.device == "auto" else config.device
    return sys.platform == "linux" and device == "cpu"


def _environment(device: str | None, threads: int) -> dict[str, str]:
    """A training's: its share of the cores, and the one GPU that it may see."""
    environment = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads))}
    return environment if device is None else {**environment, "CUDA_VISIBLE_DEVICES": device}


def _end(children: set[Child]) -> None:
    """Ctrl-C has reached the trainings too; those that have not ended by themselves soon are ended."""
    deadline = time.monotonic() + GRACE_S
    while time.monotonic() < deadline and any(child.poll() is None for child in list(children)):
        time.sleep(0.05)
    for child in list(children):
        child.terminate()


def _start(arguments: list[str], environment: dict[str, str], warm: WarmProcess | None) -> Child:
    """`chorus` with `arguments`, its output through pipes."""
    if warm is not None:
        return warm.start("chorus.cli.main:main", arguments, environment)
    command = [sys.executable, "-m", "chorus", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def _run_one(
    job: Job, device: str | None, threads: int, settings: Mapping[str, bool], note: Note,
    children: set[Child], warm: WarmProcess | None,
) -> TrainedJson:  # fmt: skip
    """One child process: `chorus train` on the job's own configuration; it is among `children` while it runs."""
    logs = Path(job.config.logs_dir)
    logs.mkdir(parents=True, exist_ok=True)
    path = logs.with_name(logs.name + ".yaml")
    path.write_text(as_yaml(job.config), encoding="utf-8")
    arguments = ["train", str(path), "--json"]
    for name in ("skip_bad", "allow_leakage", "restart", "overwrite", "quiet"):
        if settings.get(name):
            arguments.append(f"--{name.replace('_', '-')}")
    told: list[str] = []
    with _start(arguments, _environment(device, threads), warm) as child:
        assert child.stderr is not None
        assert child.stdout is not None
        children.add(child)
        try:
            for line in child.stderr:
                told.append(line.rstrip())
                if line.strip() and not line.startswith(("error:", "  hint:", "next:")):
                    note(f"{job.name}: {line.rstrip()}")
            out = child.stdout.read()
        except BaseException:
            child.terminate()
            raise
        finally:
            child.wait()
            children.discard(child)
    if child.returncode in (INTERRUPTED, -signal.SIGINT):
        raise KeyboardInterrupt
    if child.returncode:
        wrong = [line.removeprefix("error: ") for line in told if line.startswith("error:")]
        hints = [line.strip() for line in told if line.strip().startswith("hint:")]
        reason = " ".join([*(wrong or told[-1:] or [f"exit code {child.returncode}"]), *hints])
        raise ChorusError(f"{reason} (exit code {child.returncode})")
    found: TrainedJson = json.loads(out)
    return found
