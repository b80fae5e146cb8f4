"""Devices and cores: one way to name them, whatever asks."""

from __future__ import annotations

import os
import random

import numpy as np
import pytest
import torch

from chorus import runtime
from chorus.errors import UsageError


@pytest.fixture
def gpus(monkeypatch):
    """A machine that seems to have three GPUs, as CUDA_VISIBLE_DEVICES narrows them."""
    monkeypatch.delenv(runtime.VISIBLE, raising=False)
    monkeypatch.setattr(runtime, "_claimed", {})
    started: list[str | None] = []  # what the variable was when CUDA started

    def count():
        seen = started[0] if started else os.environ.get(runtime.VISIBLE)
        return 3 if seen is None else sum(name in ("0", "1", "2") for name in seen.split(","))

    monkeypatch.setattr(torch.cuda, "is_available", lambda: count() > 0)
    monkeypatch.setattr(torch.cuda, "device_count", count)
    return started


@pytest.mark.parametrize("text", ["nonsense", "cuda:", "cuda:x", "cuda:-1", "cpu:0", "mps:0", "meta", "", "CUDA"])
def test_refuses_what_is_no_device(text):
    with pytest.raises(UsageError, match=r"unknown device .*; known: auto, cpu, cuda") as caught:
        runtime.pick_device(text)
    assert caught.value.exit_code == 2
    assert "chorus doctor" in caught.value.hint


@pytest.mark.parametrize("text", ["cuda:3", "xpu", "mps"])
def test_refuses_a_device_that_is_not_there(gpus, text):
    with pytest.raises(UsageError, match=f"device {text}: not there"):
        runtime.pick_device(text)


def test_takes_the_device_asked_for_or_the_best(gpus, monkeypatch):
    assert [runtime.pick_device(text) for text in ("cpu", "cuda", "cuda:2", "auto")] == [
        "cpu",
        "cuda",
        "cuda:2",
        "cuda",
    ]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert runtime.pick_device("auto") == "cpu"


def test_a_claimed_gpu_is_the_only_one_that_is_seen(gpus):
    assert runtime.claim_device("cuda:2") == "cuda"
    assert os.environ.pop(runtime.VISIBLE) == "2"
    assert runtime.claim_device("cuda:2") == "cuda"  # again in the same process: CUDA has started


def test_a_claimed_gpu_is_counted_among_those_that_are_seen(gpus, monkeypatch):
    monkeypatch.setenv(runtime.VISIBLE, "2,0")
    runtime.claim_device("cuda:1")
    assert os.environ[runtime.VISIBLE] == "0"


@pytest.mark.parametrize("before", [None, "1,2"])
def test_a_gpu_that_cannot_be_claimed_leaves_the_others_seen(gpus, monkeypatch, before):
    if before:
        monkeypatch.setenv(runtime.VISIBLE, before)
    with pytest.raises(UsageError, match="device cuda:7: not there"):
        runtime.claim_device("cuda:7")
    assert os.environ.get(runtime.VISIBLE) == before


def test_a_gpu_cannot_be_claimed_once_cuda_has_started_with_several(gpus):
    gpus.append(None)
    with pytest.raises(UsageError, match="CUDA has started in this process with 3 devices") as caught:
        runtime.claim_device("cuda:1")
    assert "CUDA_VISIBLE_DEVICES=1" in caught.value.hint
    assert runtime.VISIBLE not in os.environ
    with pytest.raises(UsageError, match="device cuda:93: not there"):
        runtime.claim_device("cuda:93")


def test_the_only_gpu_is_claimed_also_where_cuda_has_started(gpus):
    gpus.append("2")
    assert runtime.claim_device("cuda:0") == "cuda"


def test_devices_without_a_number_are_claimed_as_they_are(gpus):
    assert runtime.claim_device("cpu") == "cpu"
    assert runtime.VISIBLE not in os.environ
    with pytest.raises(UsageError, match="unknown device"):
        runtime.claim_device("cuda:one")


def test_counts_the_cores_that_this_process_may_use(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 3}, raising=False)
    assert runtime.cores() == 2


def test_counts_cores_where_the_system_tells_no_affinity(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 12)
    assert (runtime.cores(), runtime.threads(), runtime.threads(20)) == (12, 8, 20)
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert (runtime.cores(), runtime.threads()) == (1, 1)


def test_the_same_seed_draws_the_same_from_every_library():
    def draw():
        runtime.seed_everything(7)
        return random.random(), float(np.random.random()), float(torch.rand(()))

    assert draw() == draw()
