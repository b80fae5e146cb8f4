"""What all tests share: no network, one torch thread, small models of the real classes."""

from __future__ import annotations

import os
import re
import sys
from functools import cache
from typing import Any

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
ROOT = Path(__file__).parents[1]
MADE = {"build", "dist", "htmlcov", "demo-output"}  # in the checkout, by other commands than tests; hidden ones aside
THERE = pytest.StashKey[set[str]]()
torch.set_num_threads(1)
settings.register_profile("chorus", deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("chorus")
share_own()


@cache
def users(path: str, fixture: str) -> set[str]:
    """The tests of a file that ask for a fixture."""
    text = (ROOT / path).read_text(encoding="utf-8")
    return set(re.findall(rf"^def (test_\w+)\([^)]*\b{fixture}\b", text, re.MULTILINE))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Tests that share a dear fixture of their module run in one worker, so that it is made once.

    xdist's own marks for groups are lost with pytest 9.2, which keeps a test's name elsewhere.
    """
    if config.getvalue("dist") != "loadgroup":
        return None
    from xdist.scheduler import LoadScopeScheduling

    class Grouped(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            path, _, name = nodeid.partition("::")
            shared = [fixture for fixture in DEAR if name.partition("[")[0] in users(path, fixture)]
            return f"{path}::{shared[0]}" if shared else nodeid

    return Grouped(config, log)


def pytest_sessionstart(session: pytest.Session) -> None:
    """What lies in the checkout before any test."""
    session.config.stash[THERE] = set(os.listdir(ROOT))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail where a test has written into the checkout: it would be committed with the next change."""
    new = {name for name in set(os.listdir(ROOT)) - session.config.stash[THERE] if not name.startswith(".")} - MADE
    if new:
        print(f"\ntests have left in the checkout: {', '.join(sorted(new))}", file=sys.stderr)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_fixture_setup(fixturedef: Any, request: pytest.FixtureRequest) -> None:
    """Fail where two workers make a dear fixture after all: it costs a minute."""
    if fixturedef.argname in DEAR and getattr(request.config.option, "loadgroup", False):
        shared = request.getfixturevalue("tmp_path_factory").getbasetemp().parent
        (shared / f"{request.path.stem}.{fixturedef.argname}").touch(exist_ok=False)


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
