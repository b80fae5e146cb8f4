"""The one model that merges are put into: when it is kept, when it is loaded anew, and what a failure leaves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from chorus.errors import CheckpointError
from chorus.transcribe.decoding import Decoding
from chorus.transcribe.loaded import LoadedBackend
from chorus.transcribe.request import Request
from chorus.transcribe.systems import System
from chorus.transcribe.test_sets import TestSet

SYSTEM = System(
    "first", "merge", Path("donor"), "identity", tokenizer=Path("words"), config={"layers": 2}, generation={"beams": 1}
)  # fmt: skip


class Model:
    """A loaded model that counts what is put into it, and must be closed once."""

    def __init__(self, request: Request, *, takes: bool = True) -> None:
        self.request, self.takes, self.replaced, self.closed = request, takes, 0, False

    def replace(self, tensors: Mapping[str, object]) -> None:
        if not self.takes:
            raise CheckpointError("other names", "load it anew")
        self.replaced += 1

    def close(self) -> None:
        assert not self.closed, "closed twice"
        self.closed = True


class AnyTask(Model):
    """One that serves other decodings too."""

    asked: Decoding | None = None

    def under(self, decoding: Decoding) -> AnyTask:
        self.asked = decoding
        return self


@pytest.fixture
def models(monkeypatch: pytest.MonkeyPatch) -> list[Model]:
    """Every model that is loaded, in order."""
    found: list[Model] = []

    def load(request: Request) -> Model:
        assert all(model.closed for model in found), "two models in memory"
        found.append((AnyTask if request.backend == "any task" else Model)(request))
        return found[-1]

    monkeypatch.setattr("chorus.transcribe.loaded.load_backend", load)
    return found


def asked(**changes: object) -> Request:
    return Request(replace(SYSTEM, **changes), TestSet({}))  # type: ignore[arg-type] # fields of any type


def test_merges_of_the_same_models_are_put_into_one(models: list[Model]) -> None:
    loaded = LoadedBackend()
    for label in ("first", "second", "third"):
        loaded.with_weights(asked(label=label, identity=label, config={"layers": 2}), {})
    assert [model.replaced for model in models] == [2]
    loaded.close()
    loaded.close()
    assert models[0].closed


@pytest.mark.parametrize(
    "changes",
    [{"directory": Path("other")}, {"tokenizer": None}, {"config": {"layers": 3}}, {"generation": {"beams": 5}}],
)
def test_what_surrounds_the_weights_is_never_anothers(models: list[Model], changes: dict[str, object]) -> None:
    """A method that needs no base takes config, tokenizer and generation settings of the first specialist."""
    loaded = LoadedBackend()
    loaded.with_weights(asked(), {})
    loaded.with_weights(asked(**changes), {})
    assert [(model.replaced, model.closed) for model in models] == [(0, True), (0, False)]
    loaded.with_weights(asked(**changes), {})
    assert models[1].replaced == 1
    loaded.with_weights(asked(), {})
    assert len(models) == 3


def test_a_model_that_takes_no_weights_is_loaded_anew(models: list[Model]) -> None:
    loaded = LoadedBackend()
    loaded.with_weights(asked(), {})
    models[0].takes = False
    assert loaded.with_weights(asked(), {}) is models[1]
    assert models[0].closed


def under(task: str, backend: str, **changes: object) -> Request:
    return replace(asked(**changes), decoding=Decoding(task=task), backend=backend)


def test_tasks_share_what_is_loaded_and_weights_are_put_in_once(models: list[Model]) -> None:
    loaded, first, second = LoadedBackend(), {}, {}
    for tensors in (first, second):
        for task in ("kws", "langid", "asr"):
            assert loaded.with_weights(under(task, "any task"), tensors) is models[0]
            assert (models[0].asked or models[0].request.decoding).task == task  # type: ignore[attr-defined]
    assert [model.replaced for model in models] == [1]
    # another runtime, or weights in another precision, is another model in memory
    loaded.with_weights(under("asr", "whole"), second)
    loaded.with_weights(replace(under("asr", "whole"), device="cuda"), second)
    loaded.with_weights(replace(under("kws", "any task"), decoding=Decoding(task="kws", dtype="bfloat16")), second)
    assert len(models) == 4


def test_a_runtime_that_serves_one_decoding_is_loaded_for_each(models: list[Model]) -> None:
    loaded, tensors = LoadedBackend(), {}
    for task in ("kws", "langid"):
        loaded.with_weights(under(task, "whole"), tensors)
    assert [(model.request.decoding.task, model.replaced) for model in models] == [("kws", 0), ("langid", 0)]


def test_a_system_as_it_lies_on_disk_is_never_what_was_put_into_its_place(models: list[Model]) -> None:
    loaded = LoadedBackend()
    for task in ("kws", "asr"):
        assert loaded.of(under(task, "any task")) is models[0]
    merge = under("asr", "any task", label="merge", identity="merged")
    assert loaded.with_weights(merge, {}) is models[0]
    assert models[0].replaced == 1
    assert loaded.of(under("asr", "any task")) is models[1]
    assert loaded.of(under("asr", "any task", label="other", identity="adapter")) is models[2]


def test_a_load_that_fails_leaves_nothing_to_close(models: list[Model], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(request: Request) -> Model:
        raise CheckpointError("no such tensor", "name another")

    loaded = LoadedBackend()
    loaded.with_weights(asked(), {})
    models[0].takes = False
    monkeypatch.setattr("chorus.transcribe.loaded.load_backend", refuse)
    with pytest.raises(CheckpointError, match="no such tensor"):
        loaded.with_weights(asked(), {})
    loaded.close()
    assert models[0].closed
