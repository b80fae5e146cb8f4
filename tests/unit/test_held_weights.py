"""What an analysis of loaded models holds: one model, the factors of adapters, and of all else a tensor at a time."""

from __future__ import annotations

import gc
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef

import chorus
from calibrations import adapters_on, base_of, fine_tunes_of, loaded
from chorus.analyse import live as module
from chorus.analyse.deltas import open_all
from chorus.analyse.live import AnalysedRows, LiveModel, load_live
from chorus.extract.pair import Counterparts
from chorus.linalg.low_rank import LowRank
from models import load_all
from sounds import corpus

KINDS = ("whisper", "qwen2_audio")


@pytest.fixture(scope="module", params=KINDS)
def adapted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, list[Path]]:
    """A base, and two adapters on it."""
    kind, place = str(request.param), tmp_path_factory.mktemp("adapted")
    base = base_of(place, kind)
    return kind, base, adapters_on(base, kind, place, 2)


@pytest.fixture(scope="module")
def tones(tmp_path_factory: pytest.TempPathFactory) -> AnalysedRows:
    manifest, _ = corpus(tmp_path_factory.mktemp("tones"), 6)
    return AnalysedRows([str(manifest)], window_s=1, split="all")


def merged_by_peft(kind: str, base: Path, adapter: Path) -> torch.nn.Module:
    from peft import PeftModel

    found: torch.nn.Module = PeftModel.from_pretrained(loaded(kind, base), adapter).merge_and_unload()
    return found


def storages() -> dict[int, int]:
    """The bytes of everything that any tensor holds, by where it lies."""
    gc.collect()
    found = {}
    for one in gc.get_objects():
        if issubclass(type(one), torch.Tensor):
            storage = one.untyped_storage()
            found[storage.data_ptr()] = storage.nbytes()
    return found


def held_beside(live: LiveModel, before: Mapping[int, int]) -> int:
    """The bytes that came since then and are neither the model's nor the recordings'."""
    model = live.backbone.model
    known = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    known |= {
        tensor.untyped_storage().data_ptr()
        for batches in live.batches.values() for one in batches for tensor in one.batch.values()
    }  # fmt: skip
    return sum(count for place, count in storages().items() if place not in known and place not in before)


def bytes_of(model: torch.nn.Module) -> int:
    return sum(parameter.nbytes for parameter in model.parameters())


def test_losses_of_factors_are_those_of_the_weights_that_peft_merged(
    adapted: tuple[str, Path, list[Path]], tones: AnalysedRows
) -> None:
    kind, base, adapters = adapted
    live = load_live(open_all(adapters, base), str(base), tones)
    assert live.added.ranks
    assert live.added.reaches == len(live.added.ranks), "nothing is put into a weight"
    found = chorus.analyse_path(adapters, base, tones, points=3, until=1.5)
    plain = load_live(open_all(adapters, base), str(base), tones)
    plain.added.close()
    own = dict(plain.backbone.model.named_parameters())
    first = {name: value.detach().clone() for name, value in own.items()}
    ends = [first, *(dict(merged_by_peft(kind, base, one).named_parameters()) for one in adapters)]
    checked = 0
    for path, (start, end) in zip(found.paths, ((0, 1), (0, 2), (1, 2)), strict=True):
        for place, at in enumerate(path.at):
            with torch.no_grad():
                for name, parameter in own.items():
                    parameter.copy_((1 - at) * ends[start][name] + at * ends[end][name])
            for row, loss in plain.losses().items():
                assert path.losses[row][place] == pytest.approx(loss, rel=1e-5), (path.name, at)
                checked += 1
    assert checked == 2 * (4 + 4 + 3)


def test_adapters_are_held_as_their_factors_and_touch_no_weight(
    adapted: tuple[str, Path, list[Path]], tones: AnalysedRows
) -> None:
    _, base, adapters = adapted
    opened = open_all(adapters, base)
    before = storages()
    live = load_live(opened, str(base), tones)
    model = live.backbone.model
    versions = {name: parameter._version for name, parameter in model.named_parameters()}
    live.put({0: 0.5, 1: 0.5})
    live.losses()
    assert {name: parameter._version for name, parameter in model.named_parameters()} == versions
    factors = sum(t.numel() * 4 for one in adapters for t in load_all(one).values())
    held = held_beside(live, before)
    assert held < 1.1 * factors + 4096
    assert held < bytes_of(model) / 2


@pytest.mark.parametrize("kind", KINDS)
def test_of_whole_models_one_tensor_is_there_at_a_time(
    kind: str, tones: AnalysedRows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = base_of(tmp_path, kind)
    tuned = fine_tunes_of(base, kind, tmp_path, 2)
    read: list[tuple[StorageWeakRef, int]] = []
    most = 0

    def alive() -> int:
        return sum(count for storage, count in read if not storage.expired())

    def watched(job: Counterparts, label: str) -> torch.Tensor:
        nonlocal most
        found = plain(job, label)
        assert not isinstance(found, LowRank)
        read.append((StorageWeakRef(found.untyped_storage()), found.nbytes))
        most = max(most, alive())
        return found

    plain = module.difference
    monkeypatch.setattr(module, "difference", watched)
    opened = open_all(tuned, base)
    before = storages()
    live = load_live(opened, str(base), tones)
    assert not read, "before a point is measured nothing is read"
    model = live.backbone.model
    largest = max(parameter.nbytes for parameter in model.parameters())
    live.put({0: 0.25, 1: 0.75})
    assert len(read) == 2 * live.added.reaches > 40, "each tensor of either model once"
    assert 0 < most <= largest < bytes_of(model)
    assert alive() == 0
    live.losses()
    assert held_beside(live, before) < bytes_of(model) / 10
    # what weighs nothing is not read
    done = len(read)
    live.put({1: 1.0})
    assert len(read) - done == done / 2
    live.put({})
    assert len(read) == done * 3 / 2


@pytest.mark.parametrize("kind", KINDS)
def test_at_an_end_the_weights_are_the_model_s_own(kind: str, tones: AnalysedRows, tmp_path: Path) -> None:
    base = base_of(tmp_path, kind)
    tuned = fine_tunes_of(base, kind, tmp_path, 2)
    live = load_live(open_all(tuned, base), str(base), tones)
    own = dict(live.backbone.model.named_parameters())
    for weights, place in (({1: 1.0}, tuned[1]), ({}, base), ({0: 1.0}, tuned[0])):
        live.put(weights)
        wanted = dict(loaded(kind, place).named_parameters())
        assert set(wanted) == set(own)
        for name, value in wanted.items():
            assert torch.allclose(own[name], value, rtol=1e-6, atol=1e-7), name
