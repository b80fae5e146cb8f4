"""What all tests share: no network, one torch thread, small models of the real classes."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.setdefault("CHORUS_DEBUG", "0")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the commands that tests run, two tests at a time

from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

from commands import share_own
from models import Family, make_family

DEAR = {"ran"}
torch.set_num_threads(1)
settings.register_profile("chorus", deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("chorus")
share_own()


def pytest_itemcollected(item: pytest.Item) -> None:
    """Tests that share a dear fixture of their module run in one worker, so that it is made once.

    Here, since xdist reads the groups before any `pytest_collection_modifyitems` of a conftest.
    """
    for name in DEAR & set(getattr(item, "fixturenames", ())):
        item.add_marker(pytest.mark.xdist_group(f"{item.path.stem}.{name}"))


@pytest.fixture(scope="session")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Family:
    """A tiny Qwen2 base and three fine-tunes, float32; one of them in shards."""
    return make_family(tmp_path_factory.mktemp("qwen"), "qwen2", 3)


@pytest.fixture(scope="session")
def whisper(tmp_path_factory: pytest.TempPathFactory) -> Family:
    """A tiny Whisper base and three fine-tunes, float32, with generation settings and a feature extractor."""
    return make_family(tmp_path_factory.mktemp("whisper"), "whisper", 3)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of spectra of this test's own, empty."""
    place = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("CHORUS_CACHE", str(place))
    monkeypatch.delenv("CHORUS_CACHE_LIMIT", raising=False)
    return place


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Where a merge may write."""
    return tmp_path / "merged"
