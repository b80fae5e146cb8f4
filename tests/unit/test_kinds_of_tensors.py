"""Tensors that are no numbers to merge: told by name when a model is opened, whatever its files are."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from chorus.checkpoints.kinds import refuse_other_kinds
from chorus.checkpoints.model import OpenOptions
from chorus.checkpoints.open import open_model
from chorus.errors import CheckpointError
from models import copy_model, load_all

PICKLES = OpenOptions(allow_pickle=True)


@pytest.mark.parametrize(
    ("name", "dtype", "shape"),
    [("q.weight", "int64", (2, 2)), ("norm.weight", "uint8", (2,)), ("q.bias", "bool", (2,)), ("q.weight", "int8", ()),
     ("q.weight_scale", "float32", (2,)), ("q.weight", "float8_e4m3fn", (2, 2))],
)  # fmt: skip
def test_integers_and_quantised_numbers_are_no_weights(name, dtype, shape):
    with pytest.raises(CheckpointError, match=f"mine: tensor {name}"):
        refuse_other_kinds(name, dtype, shape, "mine")


@pytest.mark.parametrize(
    ("name", "dtype", "shape"),
    [("bn.num_batches_tracked", "int64", ()), ("position_ids", "int64", (1, 512)), ("attn.bias", "bool", (1, 1, 4, 4)),
     ("q.weight", "bfloat16", (2, 2)), ("q.bias", "float64", (2,)), ("relative_position_index", "int64", (4, 4))],
)  # fmt: skip
def test_counters_positions_and_masks_are_carried(name, dtype, shape):
    refuse_other_kinds(name, dtype, shape, "mine")


def pickled(qwen, place, change):
    copy_model(qwen.base, place)
    state = load_all(place)
    (place / "model.safetensors").unlink()
    torch.save(change(state), place / "pytorch_model.bin")
    return place


NORM = "model.norm.weight"


class Unwanted:
    """No tensor, and nothing that may be loaded."""


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda s: {**s, NORM: s[NORM].to("meta")}, f"tensor {NORM} is without values"),
        (lambda s: {**s, NORM: s[NORM].to_sparse()}, f"tensor {NORM} is not dense"),
        (lambda s: {**s, NORM: torch.quantize_per_tensor(s[NORM], 0.1, 0, torch.qint8)}, f"tensor {NORM} is quantised"),
        (lambda s: {**s, NORM: s[NORM].to(torch.complex64)}, f"tensor {NORM} is of the type complex64"),
        (lambda s: {**s, NORM: s[NORM] > 0}, f"tensor {NORM} holds bool"),
        (lambda s: {**s, "a\x1b[2J": s[NORM]}, "is no name of a tensor"),
        (lambda s: dict(enumerate(s.values())), "0 is no name of a tensor"),
        (lambda s: {"model": {"deeper": s}}, "not a flat map"),
        (lambda s: list(s.values()), "not a flat map"),
        (lambda s: {**s, "more": Unwanted()}, "cannot be loaded as plain tensors"),
    ],
)
def test_pickles_hold_plain_tensors_under_names(qwen, tmp_path, change, told):
    with pytest.raises(CheckpointError) as caught:
        open_model(pickled(qwen, tmp_path / "mine", change), PICKLES)
    assert told in caught.value.message
    assert "pytorch_model.bin" in caught.value.message or "mine" in caught.value.message


def test_a_pickle_of_plain_tensors_is_opened(qwen, tmp_path):
    assert len(open_model(pickled(qwen, tmp_path / "mine", dict), PICKLES).checkpoint) > 10


@pytest.mark.parametrize("dims", [None, {}, {"n_vocab": 10**12}, {"n_mels": True}, "80"])
def test_openai_whisper_s_dimensions_are_numbers(tmp_path, dims):
    torch.save({"dims": dims, "model_state_dict": {}}, tmp_path / "tiny.pt")
    with pytest.raises(CheckpointError, match=r"tiny\.pt: not the dimensions"):
        open_model(tmp_path / "tiny.pt", PICKLES)


def test_a_buffer_of_another_kind_than_the_other_models_is_told(qwen, tmp_path):
    import chorus

    tensors = load_all(qwen.base)
    tensors["model.norm.weight"] = tensors["model.norm.weight"].to(torch.int32)
    place = copy_model(qwen.base, tmp_path / "mine")
    save_file(tensors, place / "model.safetensors")
    models = [{"model": str(m), "parameters": {"weight": 1}} for m in (qwen.base, place)]
    recipe = {"merge_method": "linear", "models": models}
    with pytest.raises(chorus.ChorusError, match=r"mine: tensor model\.norm\.weight holds int32"):
        chorus.plan(recipe)
