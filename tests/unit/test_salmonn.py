"""SALMONN's `.pth`: read as products and dense tensors, merged, taken apart, written as SALMONN reads it.

The reference is PEFT's arithmetic on the state dicts themselves, in float64.
"""

from __future__ import annotations

import json
from pathlib import Path

import peft
import pytest
import torch
import transformers

import chorus
from chorus.checkpoints.salmonn import low_rank_of
from chorus.cli.main import run
from chorus.errors import CheckpointError, ChorusError, PlanError
from chorus.transcribe.systems import open_system
from models import write_recipe

PICKLES = chorus.Options(allow_pickle=True)
OPEN = chorus.OpenOptions(allow_pickle=True)
WIDTH, HIDDEN, RANK, ALPHA = 48, 24, 4, 16
LAYER = "llama_model.base_model.model.model.layers"
MODULES = [f"{LAYER}.{i}.self_attn.{part}_proj" for i in range(2) for part in "qv"]


def state(seed: int, rank: int = RANK) -> dict[str, torch.Tensor]:
    """The trained parts, with the names that SALMONN's own model gives them."""
    numbers = torch.Generator().manual_seed(seed)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=numbers)

    query = "speech_Qformer.bert.encoder.layer.0.crossattention"
    found = {
        "speech_query_tokens": drawn(1, 1, HIDDEN),
        "ln_speech.weight": drawn(16), "ln_speech.bias": drawn(16), "ln_audio.weight": drawn(8),
        "speech_Qformer.bert.embeddings.position_ids": torch.arange(12)[None],
        "speech_Qformer.bert.embeddings.LayerNorm.weight": drawn(HIDDEN),
        f"{query}.self.query.weight": drawn(HIDDEN, HIDDEN), f"{query}.self.query.bias": drawn(HIDDEN),
        f"{query}.self.key.weight": drawn(HIDDEN, 24), f"{query}.output.LayerNorm.bias": drawn(HIDDEN),
        "speech_llama_proj.weight": drawn(WIDTH, HIDDEN), "speech_llama_proj.bias": drawn(WIDTH),
    }  # fmt: skip
    for module in MODULES:
        found[f"{module}.lora_A.default.weight"] = drawn(rank, WIDTH)
        found[f"{module}.lora_B.default.weight"] = drawn(WIDTH, rank)
    return found


def saved(path: Path, weights: dict[str, torch.Tensor], *, alpha: float = ALPHA, rank: int = RANK) -> Path:
    """As SALMONN's runner saves it: weights, what AdamW keeps, its settings."""
    config = {
        "model": {"lora": True, "lora_rank": rank, "lora_alpha": alpha, "llama_path": "vicuna"},
        "run": {"seed": 1},
    }
    optimiser = {"state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.zeros(4)}}, "param_groups": [{"lr": 1e-5}]}
    torch.save({"model": weights, "optimizer": optimiser, "config": config, "scaler": None, "epoch": 3}, path)
    return path


def products(weights: dict[str, torch.Tensor], alpha: float = ALPHA) -> dict[str, torch.Tensor]:
    """What LoRA adds to each module, and every other tensor, in float64."""
    found = {name: value.double() for name, value in weights.items() if ".lora_" not in name}
    for module in MODULES:
        a, b = (weights[f"{module}.lora_{half}.default.weight"].double() for half in "AB")
        found[f"{module}.weight"] = alpha / a.shape[0] * (b @ a)
    return found


def loaded(directory: Path) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    """What SALMONN loads: the key model; and the settings that are told beside it."""
    found = torch.load(directory / "salmonn.pth", map_location="cpu", weights_only=True)
    return found["model"], found["config"]["model"]


def close(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor], atol: float = 1e-4) -> None:
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(found[name].double(), value, atol=atol, rtol=1e-5, msg=name)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A base and two fine-tunes of it."""
    folder = tmp_path_factory.mktemp("salmonn")
    return [saved(folder / f"{name}.pth", state(seed)) for seed, name in enumerate(("v1", "speech", "music"))]


def mean_of(files, **more):
    models = [
        {"model": str(one), "parameters": {"weight": weight}} for one, weight in zip(files, (0.7, 0.3), strict=True)
    ]
    return {"merge_method": "linear", "models": models, **more}


def test_it_is_read_as_products_and_dense_tensors(files):
    model = chorus.open_model(files[1], OPEN)
    wanted = products(state(1))
    assert set(model.checkpoint) == set(wanted)
    close({name: tensor.read() for name, tensor in model.checkpoint.items()}, wanted)
    thin = [name for name, tensor in model.checkpoint.items() if low_rank_of(tensor) is not None]
    assert sorted(thin) == sorted(f"{module}.weight" for module in MODULES)
    assert model.checkpoint["speech_Qformer.bert.embeddings.position_ids"].dtype == "int64"
    name = f"{MODULES[0]}.weight"
    tensor = model.checkpoint[name]
    assert torch.equal(tensor.flat(50, 500), tensor.read().reshape(-1)[50:500])


def test_nothing_is_unpickled_without_leave(files, tmp_path):
    with pytest.raises(CheckpointError, match="pickle") as caught:
        chorus.open_model(files[0])
    assert "--allow-pickle" in str(caught.value)
    with pytest.raises(ChorusError, match="pickle"):
        chorus.merge(mean_of(files[1:]), tmp_path / "out")


def test_a_mean_is_exact_and_of_the_summed_rank(files, tmp_path):
    done = chorus.merge(mean_of(files[1:]), tmp_path / "out", PICKLES)
    weights, settings = loaded(tmp_path / "out")
    assert settings == {"lora_rank": 2 * RANK, "lora_alpha": ALPHA}
    assert weights.keys() == state(0).keys()
    assert weights[f"{MODULES[0]}.lora_A.default.weight"].shape == (2 * RANK, WIDTH)
    first, second = products(state(1)), products(state(2))
    wanted = {name: 0.7 * value + 0.3 * second[name] for name, value in first.items()}
    ids = "speech_Qformer.bert.embeddings.position_ids"
    assert torch.equal(weights[ids], torch.arange(12)[None])
    wanted[ids] = torch.arange(12)[None].double()
    close(products(weights), wanted)
    assert any(f"lora_rank: {2 * RANK} (lora_alpha: {ALPHA}" in line for line in done.warnings), done.warnings
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"salmonn.pth", "chorus.json", "README.md"}
    facts = json.loads((tmp_path / "out" / "chorus.json").read_text())
    assert facts["lora"]["rank"] == 2 * RANK
    assert str(tmp_path) not in (tmp_path / "out" / "README.md").read_text() + json.dumps(facts)


def test_the_result_is_a_model_again_and_one_alone_stays_as_it_is(files, tmp_path):
    chorus.merge(mean_of(files[1:]), tmp_path / "out", PICKLES)
    again = chorus.open_model(tmp_path / "out" / "salmonn.pth", OPEN)
    close({n: t.read() for n, t in again.checkpoint.items()}, products(loaded(tmp_path / "out")[0]))
    alone = {"merge_method": "linear", "models": [{"model": str(files[1]), "parameters": {"weight": 1}}]}
    done = chorus.merge(alone, tmp_path / "alone", PICKLES)
    weights, settings = loaded(tmp_path / "alone")
    assert settings["lora_rank"] == RANK
    assert all(torch.equal(weights[name], value) for name, value in state(1).items())
    assert not any("lora_rank" in line for line in done.warnings)


def test_differences_to_a_base_are_added_to_it(files, tmp_path):
    models = [{"model": str(one), "parameters": {"weight": 0.4}} for one in files[1:]]
    recipe = {"merge_method": "task_arithmetic", "base_model": str(files[0]), "models": models}
    chorus.merge(recipe, tmp_path / "out", PICKLES)
    base, first, second = (products(state(seed)) for seed in range(3))
    weights, settings = loaded(tmp_path / "out")
    assert settings["lora_rank"] == 3 * RANK
    close(products(weights), {n: b + 0.4 * (first[n] - b) + 0.4 * (second[n] - b) for n, b in base.items()})


@pytest.mark.parametrize(
    ("flags", "rank"), [(["--max-rank", "4"], 4), (["--energy", "0.9"], None), (["--budget", "2k"], 5)]
)
def test_the_command_cuts_the_rank(files, tmp_path, capsys, flags, rank):
    recipe = write_recipe(tmp_path / "r.yml", mean_of(files[1:]))
    out = tmp_path / "out"
    assert run(["merge", str(recipe), "-o", str(out), "--allow-pickle", "--as", "adapter", "--json", *flags]) == 0
    told = json.loads(capsys.readouterr().out)
    weights, settings = loaded(out)
    assert {one["rank"] for one in told["modules"]} == {settings["lora_rank"]}
    first, second = products(state(1)), products(state(2))
    for module in told["modules"]:
        wanted = 0.7 * first[module["tensor"]] + 0.3 * second[module["tensor"]]
        u, s, v = torch.linalg.svd(wanted)
        k = settings["lora_rank"]
        best = u[:, :k] @ torch.diag(s[:k]) @ v[:k]
        torch.testing.assert_close(products(weights)[module["tensor"]], best, atol=1e-3, rtol=0)
        assert module["energy"] == pytest.approx(float((s[:k] ** 2).sum() / (s**2).sum()), abs=1e-5)
        assert rank is not None or module["energy"] >= 0.9 - 1e-6
    assert rank is None or settings["lora_rank"] == rank


def test_a_method_value_by_value_asks_for_a_rank(files, tmp_path):
    models = [{"model": str(one), "parameters": {"weight": 1, "density": 0.5}} for one in files[1:]]
    recipe = {"merge_method": "ties", "base_model": str(files[0]), "models": models}
    with pytest.raises(PlanError, match=f"--as adapter --max-rank {RANK}"):
        chorus.merge(recipe, tmp_path / "out", PICKLES)
    assert not (tmp_path / "out").exists()
    done = chorus.merge_into_adapter(recipe, tmp_path / "out", PICKLES, ranks=chorus.RankRule(max_rank=WIDTH))
    plan = chorus.plan(recipe, PICKLES)
    weights, _ = loaded(tmp_path / "out")
    close(products(weights), {name: plan[name].read().double() for name in plan}, atol=1e-3)
    assert {one.way for one in done.modules} == {"dense"}
    assert min(one.energy for one in done.modules) > 0.9999


def test_a_task_vector_keeps_its_factors_and_makes_the_fine_tune_of_the_base(files, tmp_path):
    found = chorus.extract_task_vector(files[1], files[0], tmp_path / "vector", options=OPEN)
    base, tuned = products(state(0)), products(state(1))
    norm = sum(float((tuned[n] - b).square().sum()) for n, b in base.items() if "position_ids" not in n) ** 0.5
    assert found.norm == pytest.approx(norm, rel=1e-5)
    from safetensors.torch import load_file

    stored = load_file(tmp_path / "vector" / "task_vector.safetensors")
    assert stored[f"{MODULES[0]}.weight.left"].shape == (WIDTH, 2 * RANK)
    assert not any(value.shape == (WIDTH, WIDTH) for value in stored.values())
    chorus.apply(files[0], tmp_path / "vector", tmp_path / "again", PICKLES)
    weights, settings = loaded(tmp_path / "again")
    assert settings["lora_rank"] == RANK  # what cancels is no direction
    close(products(weights), tuned)
    chorus.apply(files[2], tmp_path / "vector", tmp_path / "other", PICKLES, weights=-0.5)
    third = products(state(2))
    close(products(loaded(tmp_path / "other")[0]), {n: third[n] - 0.5 * (tuned[n] - b) for n, b in base.items()})


def test_scales_are_those_of_each_file(tmp_path):
    """Another alpha is another model; a file without settings has SALMONN's own, of 32."""
    wide = saved(tmp_path / "wide.pth", state(1, 6), alpha=3, rank=6)
    bare = tmp_path / "bare.pth"
    torch.save({"model": state(2)}, bare)
    chorus.merge(mean_of([wide, bare]), tmp_path / "out", PICKLES)
    weights, settings = loaded(tmp_path / "out")
    assert settings == {"lora_rank": 10, "lora_alpha": 3}
    first, second = products(state(1, 6), 3), products(state(2), 32)
    wanted = {name: 0.7 * value + 0.3 * second[name] for name, value in first.items()}
    close(products(weights, 3), wanted)


def test_layers_and_parts_have_roles(files):
    recipe = mean_of(files[1:], parameters={"weight": [{"filter": "speech_llama_proj", "value": 1.0}, {"value": 0.5}]})
    for model in recipe["models"]:
        del model["parameters"]
    plan = chorus.plan(recipe, PICKLES)
    roles = {tensor.name: tensor.role for tensor in plan.tensors()}
    assert roles[f"{MODULES[2]}.weight"].layer == 1
    assert roles[f"{MODULES[2]}.weight"].component == "language_model"
    assert {role.component for name, role in roles.items() if not name.startswith("llama")} == {"projector"}
    assert not any("unknown to transformers" in line for line in plan.warnings)


BROKEN = {
    "half a pair": (lambda w: w.pop(f"{MODULES[0]}.lora_B.default.weight"), "half a pair"),
    "no product": (lambda w: w.update({f"{MODULES[0]}.lora_B.default.weight": torch.zeros(9, 3)}), "make no product"),
    "two ranks": (
        lambda w: w.update({f"{MODULES[0]}.lora_{h}.default.weight": torch.zeros(s) for h, s in
                            (("A", (2, WIDTH)), ("B", (WIDTH, 2)))}),
        "LoRA of the ranks 2, 4",
    ),
    "whole and as LoRA": (lambda w: w.update({f"{MODULES[0]}.weight": torch.zeros(WIDTH, WIDTH)}), "whole and as LoRA"),
    "DoRA": (lambda w: w.update({f"{MODULES[0]}.lora_magnitude_vector": torch.zeros(WIDTH)}), "no plain LoRA"),
}  # fmt: skip


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_file_is_refused_with_its_fault(tmp_path, fault):
    weights = state(1)
    change, told = BROKEN[fault]
    change(weights)
    with pytest.raises(CheckpointError, match=told):
        chorus.open_model(saved(tmp_path / "x.pth", weights), OPEN)


@pytest.mark.parametrize("alpha", [0, -1, "32", float("nan"), True, 10**400])
def test_a_scale_that_is_none_is_refused(tmp_path, alpha):
    with pytest.raises(CheckpointError, match="no scale"):
        chorus.open_model(saved(tmp_path / "x.pth", state(1), alpha=alpha), OPEN)


def test_a_config_of_another_rank_is_refused_and_one_without_sections_read(tmp_path):
    """SALMONN scales by alpha over the config's rank, so that a file of another rank is of no known scale."""
    with pytest.raises(CheckpointError, match="lora_rank is 8 in its config, its LoRA has 4"):
        chorus.open_model(saved(tmp_path / "x.pth", state(1), rank=8), OPEN)
    torch.save({"model": state(1), "config": {"lora_rank": RANK, "lora_alpha": ALPHA}}, tmp_path / "flat.pth")
    found = chorus.open_model(tmp_path / "flat.pth", OPEN).checkpoint
    close({name: tensor.read() for name, tensor in found.items()}, products(state(1)))


def test_factors_that_do_not_fit_their_type_are_refused(tmp_path):
    """As merged values are: in float16 they would be infinite, and the file would load."""
    weights = {name: value.half() if value.is_floating_point() else value for name, value in state(1).items()}
    weights[f"{MODULES[0]}.lora_B.default.weight"].fill_(40000)
    file = saved(tmp_path / "x.pth", weights)
    recipe = {"merge_method": "linear", "models": [{"model": str(file), "parameters": {"weight": 3.0}}]}
    recipe["parameters"] = {"normalize": False}
    with pytest.raises(ChorusError, match=r"lora_B.*does not fit float16") as caught:
        chorus.merge(recipe, tmp_path / "out", PICKLES)
    assert "out_dtype" in str(caught.value)
    assert not (tmp_path / "out").exists()


class Call:
    def __reduce__(self):
        return print, ("run",)


def test_code_in_a_file_is_not_run(tmp_path, capsys):
    torch.save({"model": state(1), "config": Call()}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match="cannot be loaded as plain tensors"):
        chorus.open_model(tmp_path / "x.pth", OPEN)
    assert "run" not in capsys.readouterr().out


def test_files_that_do_not_fit_each_other_are_told(files, tmp_path):
    fewer = state(2)
    for name in [name for name in fewer if name.startswith(f"{LAYER}.1.")]:
        del fewer[name]
    other = saved(tmp_path / "fewer.pth", fewer)
    with pytest.raises(PlanError, match=r"fewer.pth lacks 2 tensors of speech.pth"):
        chorus.plan(mean_of([files[1], other]), PICKLES)


def test_what_is_not_finite_is_told(files, tmp_path):
    for name in (f"{MODULES[0]}.lora_A.default.weight", "speech_llama_proj.bias"):
        weights = state(2)
        weights[name].view(-1)[3] = float("nan")
        other = saved(tmp_path / "nan.pth", weights)
        with pytest.raises(CheckpointError, match=r"NaN|nan at") as caught:
            chorus.merge(mean_of([files[1], other]), tmp_path / "out", PICKLES)
        assert name.split(".lora_")[0] in caught.value.message
        assert not (tmp_path / "out").exists()


def test_it_is_not_run_and_taken_into_no_other_form(files, tmp_path, capsys):
    for given in (["evaluate", str(files[0]), "--data", "x.csv", "-o", str(tmp_path / "e")],
                  ["export", str(files[0]), "--to", "ggml", "-o", str(tmp_path / "x.bin")]):  # fmt: skip
        assert run([*given, "--allow-pickle"]) != 0
        assert not (tmp_path / "e").exists()
    assert "Whisper" in capsys.readouterr().err
    with pytest.raises(CheckpointError, match="SALMONN is merged here, not run"):
        open_system(files[0], options=OPEN)


def test_no_adapter_is_taken_out_of_it(files, tmp_path):
    with pytest.raises(CheckpointError, match="SALMONN's LoRA stands in its file") as caught:
        chorus.extract_lora(files[1], files[0], tmp_path / "lora", options=OPEN)
    assert "task-vector" in caught.value.hint


class Salmonn(torch.nn.Module):
    """A model put together as SALMONN's is: an LLM under PEFT, frozen but for its LoRA, and a projector before it."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
        llm = transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=64, **sizes))
        llm.requires_grad_(False)
        lora = peft.LoraConfig(task_type="CAUSAL_LM", r=rank, lora_alpha=ALPHA, target_modules=["q_proj", "v_proj"])
        self.llama_model = peft.get_peft_model(llm, lora)
        self.speech_query_tokens = torch.nn.Parameter(torch.zeros(1, 1, 8))
        self.speech_llama_proj = torch.nn.Linear(8, 32)

    def trained(self) -> dict[str, torch.Tensor]:
        """What its runner keeps: all but the parameters that are frozen."""
        frozen = {name for name, parameter in self.named_parameters() if not parameter.requires_grad}
        return {name: value.clone() for name, value in self.state_dict().items() if name not in frozen}

    def logits(self, heard: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return self.eval().llama_model(inputs_embeds=self.speech_llama_proj(heard)).logits


def test_a_model_put_together_as_salmonns_is_loads_the_result(tmp_path):
    model, tuned = Salmonn(RANK), []
    for seed in (1, 2):
        torch.manual_seed(seed)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data.normal_(0, 0.2)
        tuned.append(saved(tmp_path / f"tuned{seed}.pth", model.trained()))
    chorus.merge(mean_of(tuned), tmp_path / "out", PICKLES)
    weights, settings = loaded(tmp_path / "out")
    merged = Salmonn(settings["lora_rank"])
    told = merged.load_state_dict(weights, strict=False)
    assert told.unexpected_keys == []
    assert not set(told.missing_keys) & merged.trained().keys()
    # by PEFT's own arithmetic: the frozen weights with both products in them
    parts = [torch.load(one, weights_only=True)["model"] for one in tuned]
    plain = Salmonn(RANK)
    dense = plain.llama_model.unload()
    for name, parameter in dense.named_parameters():
        module = f"llama_model.base_model.model.{name.removesuffix('.weight')}"
        for part, weight in zip(parts, (0.7, 0.3), strict=True):
            if f"{module}.lora_A.default.weight" in part:
                a, b = (part[f"{module}.lora_{half}.default.weight"] for half in "AB")
                parameter.data += weight * ALPHA / RANK * (b @ a)
    heard = torch.randn(2, 5, 8)
    weight, bias = (
        0.7 * parts[0][f"speech_llama_proj.{name}"] + 0.3 * parts[1][f"speech_llama_proj.{name}"]
        for name in ("weight", "bias")
    )
    with torch.no_grad():
        wanted = dense.eval()(inputs_embeds=torch.nn.functional.linear(heard, weight, bias)).logits
    torch.testing.assert_close(merged.logits(heard), wanted, atol=1e-4, rtol=1e-4)
