"""States by layer of speech language models: which positions they are of, and CKA by its formula in float64."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import chorus
from chorus.analyse.deltas import open_all
from chorus.analyse.live import AnalysedRows, GivenBatch, LiveModel, load_live
from chorus.analyse.live_report import cka_tables
from chorus.analyse.states import POSITIONS, frames_of, states_of
from chorus.errors import CheckpointError, DataError
from models import load_all
from sounds import again, corpus, tiny, whole_omni

KINDS = ("qwen2_audio", "omni", "qwen3_asr", "voxtral")
PACKED = ("omni", "qwen3_asr")  # sounds one behind the other


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sounds of different lengths, so that some are padded; and texts too."""
    return corpus(tmp_path_factory.mktemp("tones"), 6)[0]


@pytest.fixture(scope="module", params=KINDS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, Path]:
    """A kind, a base of it, and a fine-tune."""
    place = tmp_path_factory.mktemp(request.param)
    base = tiny(place / "base", request.param)
    return request.param, base, moved(base, place / "tuned")


def moved(base: Path, place: Path) -> Path:
    draw = torch.Generator().manual_seed(1)
    place.mkdir()
    for file in base.iterdir():
        (place / file.name).write_bytes(file.read_bytes())
    tensors = {
        name: (v if "embed_positions" in name else v + 0.2 * v.abs().mean() * torch.randn(v.shape, generator=draw))
        for name, v in load_all(base).items()
    }
    save_file({n: v.contiguous() for n, v in tensors.items()}, place / "model.safetensors", {"format": "pt"})
    return place


def rows(manifest: Path, **more: object) -> AnalysedRows:
    return AnalysedRows([str(manifest)], split="all", **more)  # type: ignore[arg-type]


def some(count: int) -> list[int]:
    few = min(POSITIONS, count)
    return [i * count // few for i in range(few)]


def halved(count: int, times: int) -> int:
    for _ in range(times):
        count = (count + 1) // 2
    return count


def by_hand(live: LiveModel, given: GivenBatch, kind: str) -> dict[str, torch.Tensor]:
    """The same states, of each utterance by itself and without any padding."""
    found: dict[str, list[torch.Tensor]] = {}
    network = live.backbone.model
    for i, seconds in enumerate(given.seconds):
        length = int(given.batch["attention_mask"][i].sum())
        one = {name: value[i : i + 1] for name, value in given.batch.items()}
        one |= {name: one[name][:, :length] for name in ("input_ids", "attention_mask", "labels")}
        towers: list[torch.Tensor] = []
        hooks = [
            layer.register_forward_hook(lambda _m, _a, out: towers.append(out if torch.is_tensor(out) else out[0]))
            for layer in network.get_encoder(modality="audio").layers
        ]
        with torch.inference_mode():
            out = network(**one, output_hidden_states=True)
        for hook in hooks:
            hook.remove()
        columns = round(seconds * 100)
        frames = halved(columns, {"omni": 1, "qwen3_asr": 3}[kind]) if kind in PACKED else columns // 2
        for number, states in enumerate(towers):
            flat = states.reshape(-1, states.shape[-1])
            assert len(flat) >= frames
            if kind in PACKED:
                assert len(flat) == frames, "alone a sound is packed without anything behind it"
            found.setdefault(f"encoder {number}", []).append(flat[some(frames)])
        learnt = [p for p, label in enumerate(one["labels"][0].tolist()) if label != -100]
        # what transformers tells behind the last layer is normed: the hook's is what goes into that
        for number, states in enumerate(out.hidden_states[1:-1]):
            places = [learnt[p] - 1 for p in some(len(learnt))]
            found.setdefault(f"language_model {number}", []).append(states[0, places])
    return {name: torch.cat(parts) for name, parts in found.items()}


def test_states_are_those_of_each_utterance_alone_without_padding(
    model: tuple[str, Path, Path], manifest: Path
) -> None:
    kind, base, _ = model
    live = load_live(open_all([base], base), str(base), rows(manifest, batch_size=6, by="language"))
    (batches,) = live.batches.values()
    (given,) = batches
    assert len(set(given.seconds)) > 1, "without padding nothing is tested"
    assert len(set(given.batch["attention_mask"].sum(1).tolist())) > 1
    (found,) = states_of(live).values()
    wanted = by_hand(live, given, kind)
    assert set(found) == {*wanted, "language_model 1"}
    for name, states in wanted.items():
        assert found[name].shape == states.shape, name
        assert torch.allclose(found[name], states, atol=1e-4), name
    # behind the last layer: what makes the answer's tokens, once it is normed
    network = live.backbone.model
    with torch.inference_mode():
        out = network(**given.batch)
        logits = network.get_output_embeddings()(network.get_decoder().norm(found["language_model 1"]))
    first = int(torch.nonzero(given.batch["labels"][0] != -100)[0, 0])
    assert torch.allclose(logits[0], out.logits[0, first - 1], atol=1e-4)


def hsic(k: torch.Tensor, other: torch.Tensor) -> float:
    """Song et al. 2012, equation 5, as it stands there."""
    n = len(k)
    k, other = k.clone().fill_diagonal_(0), other.clone().fill_diagonal_(0)
    one = torch.ones(n, dtype=torch.float64)
    crossed = torch.trace(k @ other) + (one @ k @ one) * (one @ other @ one) / ((n - 1) * (n - 2))
    return float(crossed - 2 / (n - 2) * (one @ k @ other @ one)) / (n * (n - 3))


def test_cka_is_its_formula_in_float64(model: tuple[str, Path, Path], manifest: Path) -> None:
    _, base, tuned = model
    found = chorus.analyse_cka({"tuned": tuned}, base, rows(manifest))
    states = []
    for place in (base, tuned):
        live = load_live(open_all([place], place), str(place), rows(manifest))
        states.append(states_of(live))
    assert list(found.rows) == list(states[0]) == ["d0", "d1"]
    assert [layer.name for layer in found.layers] == ["encoder 0", "language_model 0", "language_model 1"]
    together = [(layer, ["d0", "d1"]) for layer in found.layers]
    apart = [(layer, [row]) for row, layers in found.rows.items() for layer in layers]
    assert len(apart) == 2 * len(together)
    for layer, parts in [*together, *apart]:
        x, y = (torch.cat([one[row][layer.name] for row in parts]).double() for one in states)
        assert layer.examples == len(x)
        k, other = x @ x.T, y @ y.T
        wanted = hsic(k, other) / (hsic(k, k) * hsic(other, other)) ** 0.5
        assert layer.cka[0][1] == pytest.approx(wanted, abs=1e-4)
        assert layer.cka[0][0] == pytest.approx(1.0)
        assert layer.difference[0][1] == pytest.approx(float((x - y).abs().mean()), rel=1e-3)
        assert layer.difference[0][1] > 0
    json.dumps(found.as_dict(), allow_nan=False)


def test_a_row_of_too_few_positions_has_no_cka_and_so_few_alone_are_refused(tmp_path: Path) -> None:
    _, every = corpus(tmp_path / "tones", 6)
    # its answer is a letter and the end
    few = again(tmp_path / "tones", every, text="a", speaker="solo")
    base = tiny(tmp_path / "base", "qwen2_audio")
    tuned = moved(base, tmp_path / "tuned")
    found = chorus.analyse_cka({"tuned": tuned}, base, rows(few, by="speaker"))
    assert set(found.rows) == {"solo", "s0", "s1", "s2"}
    heard, *written = found.rows["solo"]
    assert (heard.examples, [layer.examples for layer in written]) == (8, [2, 2])
    assert heard.cka[0][1] is not None
    assert all(layer.cka == [[None, None], [None, None]] for layer in written)
    assert all(layer.difference[0][1] > 0 for layer in written)
    json.dumps(found.as_dict(), allow_nan=False)
    (table,) = [one for one in cka_tables(found) if one.title.startswith("CKA in each row")]
    told = {(row[0], row[1]): row[2] for row in table.rows}
    assert told["solo", "language_model 1"] == "-"
    assert told["s0", "language_model 1"] == f"{found.rows['s0'][-1].cka[0][1]:.3f}"
    alone = again(tmp_path / "tones", every[:1], "alone.csv", text="a")
    with pytest.raises(DataError, match="2 positions to compare in language_model 0: too few"):
        chorus.analyse_cka({"tuned": tuned}, base, rows(alone))


def test_a_page_is_made_of_them(model: tuple[str, Path, Path], manifest: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    pytest.importorskip("jinja2")
    _, base, tuned = model
    found = chorus.analyse_cka({"tuned": tuned}, base, rows(manifest))
    page = chorus.write_analysis(found, tmp_path / "cka").read_text()
    assert page.count("data:image/svg+xml") == 4
    assert "language_model 1" in page


def test_the_thinker_is_heard_in_the_whole_omni(manifest: Path, tmp_path: Path) -> None:
    """And its talker, which the loaded thinker has not, may differ as it likes."""
    base = whole_omni(tmp_path / "base")
    tuned = moved(base, tmp_path / "tuned")
    found = chorus.analyse_cka({"same": base, "tuned": tuned}, base, rows(manifest, limit=4))
    assert {layer.name.split()[0] for layer in found.layers} == {"encoder", "language_model"}
    assert all(layer.difference[0][1] == 0 for layer in found.layers)
    assert all(layer.difference[0][2] > 0 for layer in found.layers)
    # the end of the way is the other model, as it is by itself
    there = chorus.analyse_path({"tuned": tuned}, base, rows(manifest, limit=4), points=2).paths[0].mean
    back = chorus.analyse_path({"base": base}, tuned, rows(manifest, limit=4), points=2).paths[0].mean
    assert there == pytest.approx(back[::-1], rel=1e-5)
    assert there[0] != pytest.approx(there[1], rel=1e-3)


def test_what_writes_alone_or_only_hears_is_refused(manifest: Path, tmp_path: Path) -> None:
    base = tiny(tmp_path / "ctc", "wav2vec2")
    with pytest.raises(CheckpointError, match="speech language models'"):
        chorus.analyse_cka([base], base, rows(manifest))


def test_chunks_that_are_packed_have_as_many_frames_as_their_tower_makes() -> None:
    for columns in range(4, 400):
        assert frames_of(columns, 200, 1) == (columns - 1) // 2 + 1
        assert frames_of(columns, 100, 3) == columns // 100 * 13 + halved(columns % 100, 3)
