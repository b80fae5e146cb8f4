"""What lies beside the weights: what is carried, what is left and named, and which model gives it."""

from __future__ import annotations

import json
import os

import pytest

import chorus
from adapters import make_adapters
from chorus.checkpoints.beside import beside, sort_out, what_left
from chorus.checkpoints.open import open_model
from chorus.checkpoints.weights import weight_files
from chorus.errors import ChorusError
from chorus.merge.planning.planner import plan
from models import CONFIGS, copy_model, load_all

CARRIED = (
    "tekken.json", "spk_dict.pt", "spiece.model", "source.spm", "target.spm", "qwen.tiktoken", "modeling_x.py",
    "alphabet.json", "language_model/5gram.bin", "language_model/unigrams.txt", "additional_chat_templates/tool.jinja",
    "LICENSE", "NOTICE", "USE_POLICY.md", "voices/anna.pt", "mel_filters.npz", "modules.json", "1_Pooling/config.json",
    "scheduler_config.json", "preprocessor_config.json",
)  # fmt: skip
LEFT = (
    "pytorch_model.bin", "pytorch_model-00001-of-00002.bin", "pytorch_model.bin.index.json", "tf_model.h5",
    "flax_model.msgpack", "model.fp32-00001-of-00002.safetensors", "model.safetensors.index.fp32.json",
    "consolidated.safetensors", "consolidated.00.pth", "adapter_model.safetensors", "adapter_config.json",
    "model-q4_k_m.gguf", "ggml-model.bin", "onnx/model.onnx", "onnx/config.json", "model.onnx_data", "optimizer.pt",
    "scheduler.pt", "rng_state_0.pth", "trainer_state.json", "training_args.bin", "runs/Nov01/events.out.tfevents.1",
    "checkpoint-500/config.json", "global_step10/mp_rank_00_model_states.pt", "eval_results.json", "model_states.pt",
    "hf_quant_config.json", "mergekit_config.yml", "data/train-0.parquet", "train.arrow", "original/params.json",
    "openai-merged.pt", "openai-merged.pt.json", "ggml-merged-q5_0.bin.json", "merged-f16.gguf.json", "Modelfile-f16",
)  # fmt: skip
SILENT = (".gitattributes", ".cache/x", "README.md", "config.json", "generation_config.json", "chorus.json",
          "__pycache__/x.pyc", ".git/config", "model.safetensors.index.json")  # fmt: skip


# as the hub lists them: what is read, what goes with it, what is left
LISTINGS = {
    "openai/whisper-large-v3": (
        "model.safetensors",
        "added_tokens.json merges.txt normalizer.json preprocessor_config.json special_tokens_map.json tokenizer.json "
        "tokenizer_config.json vocab.json",
        "flax_model.msgpack model.fp32-00001-of-00002.safetensors model.fp32-00002-of-00002.safetensors "
        "model.safetensors.index.fp32.json pytorch_model.bin pytorch_model.bin.index.fp32.json "
        "pytorch_model.fp32-00001-of-00002.bin pytorch_model.fp32-00002-of-00002.bin",
    ),
    "mistralai/Voxtral-Mini-3B-2507": (
        "model-00001-of-00002.safetensors model-00002-of-00002.safetensors model.safetensors.index.json",
        "preprocessor_config.json tekken.json",
        "consolidated.safetensors params.json",
    ),
    "jonatasgrosman/wav2vec2-large-xlsr-53-english": (
        "model.safetensors",
        "alphabet.json language_model/attrs.json language_model/lm.binary language_model/unigrams.txt "
        "preprocessor_config.json special_tokens_map.json vocab.json",
        "eval.py flax_model.msgpack full_eval.sh log_mozilla-foundation_common_voice_6_0_en_test_predictions.txt "
        "mozilla-foundation_common_voice_6_0_en_test_eval_results.txt pytorch_model.bin",
    ),
    "Qwen/Qwen2.5-Omni-3B": (
        "model-00001-of-00002.safetensors model-00002-of-00002.safetensors model.safetensors.index.json",
        "LICENSE added_tokens.json chat_template.json merges.txt preprocessor_config.json special_tokens_map.json "
        "spk_dict.pt tokenizer.json tokenizer_config.json vocab.json",
        "",
    ),
    "meta-llama/Llama-3.2-1B": (
        "model.safetensors",
        "LICENSE.txt USE_POLICY.md special_tokens_map.json tokenizer.json tokenizer_config.json",
        "original/consolidated.00.pth original/params.json original/tokenizer.model",
    ),
    "facebook/seamless-m4t-v2-large": (
        "model-00001-of-00002.safetensors model-00002-of-00002.safetensors model.safetensors.index.json",
        "added_tokens.json preprocessor_config.json sentencepiece.bpe.model special_tokens_map.json "
        "spm_char_lang38_tc.model tokenizer_config.json",
        "seamlessM4T_v2_large.pt vocoder_v2.pt",
    ),
}


class Listed:
    """A repository of which the names alone are known."""

    def __init__(self, read, others):
        self.read, self.all = read.split(), [*read.split(), *others.split()]

    def names(self):
        return [name for name in self.all if "/" not in name]

    def has(self, name):
        return name in self.all

    def json(self, name):
        return {"weight_map": {name: name for name in self.read if not name.endswith("json")}}

    def odd(self, name):
        return ""

    def size(self, name):
        return 10**9 if name in ("seamlessM4T_v2_large.pt", "vocoder_v2.pt") else 300_000


def put(place, *names, text="x"):
    for name in names:
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(text)


@pytest.fixture
def pair(qwen, tmp_path):
    """Two models of equal weights: a with files beside them, and b."""
    return [copy_model(qwen.base, tmp_path / name) for name in "ab"]


def recipe(pair, **keys):
    models = [{"model": str(place), "parameters": {"weight": 1.0}} for place in pair]
    return {"merge_method": "linear", "models": models, **keys}


def warned(planned, word):
    return [w for w in planned.warnings if word in w]


def test_what_is_left_is_told_by_its_name():
    assert {name: what_left(name) for name in CARRIED} == dict.fromkeys(CARRIED)
    assert [name for name in LEFT if not what_left(name)] == []
    assert {name: what_left(name) for name in SILENT} == dict.fromkeys(SILENT, "")
    assert (len(CARRIED), len(LEFT), len(SILENT)) == (20, 36, 9)


@pytest.mark.parametrize("repository", LISTINGS)
def test_repositories_as_the_hub_lists_them(repository, tmp_path):
    read, carried, left = LISTINGS[repository]
    files = Listed(read, f"{carried} {left} config.json generation_config.json README.md .gitattributes")
    assert set(weight_files(files, {}, repository).all_names) == set(read.split())
    found = sort_out(files.all, files, tmp_path, {})
    assert set(found.carried) == set(carried.split())
    named = {name for names in found.left.values() for name in names}
    assert named >= {name if "/" not in name else f"{name.split('/')[0]}/" for name in left.split()}


def test_of_a_directory_all_is_carried_left_and_told_or_nobodys_wish(pair):
    a, _ = pair
    put(a, *CARRIED, *LEFT, *SILENT[:2])
    found = beside(open_model(a))
    assert set(found.carried) == set(CARRIED)
    named = {name for names in found.left.values() for name in names}
    folders = {f"{name.split('/')[0]}/" for name in LEFT if "/" in name}
    assert named == {name for name in LEFT if "/" not in name} | folders
    assert "model.safetensors" not in named  # these weights are read


def test_a_folder_with_weights_is_a_part_where_its_config_is_of_another_type(pair):
    a, _ = pair
    own = json.loads((a / "config.json").read_text())["model_type"]
    for folder, kind in (("vocoder", "bigvgan"), ("copy", own), ("bare", None)):
        put(a, f"{folder}/model.safetensors")
        put(a, f"{folder}/config.json", text=json.dumps({"model_type": kind}))
    found = beside(open_model(a))
    assert set(found.carried) == {"vocoder/model.safetensors", "vocoder/config.json"}
    assert found.left == {"weights": ["bare/", "copy/"]}


def test_links_are_followed_inside_and_in_the_hubs_cache_alone(qwen, tmp_path):
    cache = tmp_path / "models--org--name"
    place = copy_model(qwen.base, cache / "snapshots" / "abc")
    put(cache, "blobs/123", "secret")
    put(place, "inside")
    for name, target in (("LICENSE", "../../blobs/123"), ("NOTICE", "inside"), ("key", "../../secret")):
        (place / name).symlink_to(target)
    (place / "gone").symlink_to("nowhere")
    (place / "again").symlink_to(place)
    os.mkfifo(place / "pipe")
    found = beside(open_model(place))
    assert set(found.carried) == {"LICENSE", "NOTICE", "inside"}
    assert found.left == {"links that lead out of the directory": ["key"], "no files": ["again", "gone", "pipe"]}


def test_folders_of_many_files_are_no_part_of_a_model(pair, monkeypatch):
    monkeypatch.setattr("chorus.checkpoints.beside.MOST", 3)
    put(pair[0], *(f"clips/{i}.wav" for i in range(9)))
    assert beside(open_model(pair[0])).left == {"folders of more than 3 files": ["clips/"]}


def test_a_tokenizer_that_is_no_file_is_refused(pair):
    os.mkfifo(pair[0] / "tokenizer.json")
    with pytest.raises(ChorusError, match="a pipe, not a file"):
        plan(recipe(pair))


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "processor_config.json"])
def test_files_that_others_are_made_of_are_read_before_the_merge(pair, name):
    put(pair[0], name, text="{ cut")
    with pytest.raises(ChorusError, match=f"{name}: not readable as JSON"):
        plan(recipe(pair))


# ---- from which model ----


def test_the_first_that_has_a_file_gives_it_and_that_is_said(pair, out):
    a, b = pair
    put(a, "NOTICE", text="of a")
    put(b, "NOTICE", "LICENSE", text="of b")
    put(b, "tokenizer.json", "preprocessor_config.json", text="{}")
    planned = chorus.plan(recipe(pair))
    (tokenizer,), (processor,) = warned(planned, "tokenizer"), warned(planned, "processor")
    assert tokenizer == "a has no tokenizer: the result takes b's"
    assert processor == "a has no processor: the result takes b's"
    assert warned(planned, "LICENSE") == ["from b, as a has none: LICENSE"]
    chorus.merge(planned, out)
    assert [(out / name).read_text() for name in ("NOTICE", "LICENSE", "tokenizer.json")] == ["of a", "of b", "{}"]


def test_a_tokenizer_is_taken_whole(pair):
    a, b = pair
    put(a, "tokenizer.json", text='{"of": "a"}')
    put(b, "tokenizer.json", "merges.txt", "special_tokens_map.json", text="{}")
    assert set(chorus.plan(recipe(pair)).beside.carried) == {"tokenizer.json"}
    chosen = chorus.plan(recipe(pair, tokenizer_source=str(b)))
    assert set(chosen.beside.carried) == {"tokenizer.json", "merges.txt", "special_tokens_map.json"}


@pytest.mark.parametrize("place", ["chat_template.jinja", "tokenizer_config.json"])
def test_a_chat_template_of_the_fine_tune_alone_is_told(pair, place):
    a, b = pair
    for model in pair:
        put(model, "tokenizer.json", text="{}")
    put(b, place, text='{"chat_template": "{{ messages }}"}')
    (warning,) = warned(chorus.plan(recipe(pair, base_model=str(a))), "chat template")
    assert "a has none; b has one" in warning
    assert warned(chorus.plan(recipe(pair, tokenizer_source=str(b))), "chat template") == []
    put(a, place, text='{"chat_template": "of its own"}')
    assert warned(chorus.plan(recipe(pair)), "chat template") == []


@pytest.mark.parametrize("base_has", [True, False])
def test_a_tokenizer_beside_an_adapter_is_seen(tmp_path, base_has):
    """Trainings leave it there: taken where the base has none, its chat template told where it has."""
    base, (adapter,) = make_adapters(tmp_path, "qwen2", 1)
    if base_has:
        put(base, "tokenizer.json", text="{}")
    put(adapter, "tokenizer.json", "chat_template.jinja", text="{}")
    models = [{"model": str(base), "lora": str(adapter), "parameters": {"weight": 1.0}}]
    planned = chorus.plan({"merge_method": "task_arithmetic", "base_model": str(base), "models": models})
    place = base if base_has else adapter
    assert planned.beside.carried["tokenizer.json"] == place / "tokenizer.json"
    assert bool(warned(planned, "chat template")) == base_has
    asked = {"tokenizer_source": f"{base}+{adapter}", "merge_method": "task_arithmetic", "base_model": str(base)}
    planned = chorus.plan({**asked, "models": models})
    assert planned.beside.carried["tokenizer.json"] == adapter / "tokenizer.json"
    assert planned.model().tokenizer_directory == adapter
    assert not warned(planned, "chat template")


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ("modeling_x.X", "code of its own, carried as it is and not run: modeling_x.py"),
        (["tokenization_y.Slow", None], "auto_map names tokenization_y.py, which no model has"),
        ("org/name--modeling_x.X", None),
    ],
)
def test_code_that_a_config_names_goes_with_it(qwen, tmp_path, entry, told):
    place = copy_model(qwen.base, tmp_path / "a", auto_map={"AutoModel": entry})
    put(place, "modeling_x.py", "configuration_x.py")
    planned = chorus.plan(recipe([place]))
    assert {"modeling_x.py", "configuration_x.py"} <= set(planned.beside.carried)
    assert [w for w in planned.warnings if told and told in w] == [w for w in planned.warnings if "code" in w]
    assert bool(told) == any("code" in w for w in planned.warnings)


def test_without_copying_nothing_is_carried_and_nothing_said(pair, out):
    put(pair[1], "LICENSE", "tokenizer.json", text="{}")
    options = chorus.Options(copy_tokenizer=False)
    planned = chorus.plan(recipe(pair), options)
    assert not planned.beside.carried
    assert not warned(planned, "tokenizer")
    chorus.merge(planned, out)
    assert not (out / "LICENSE").exists()


def test_a_merge_of_merges_carries_what_the_inner_one_would(pair, out):
    put(pair[1], "LICENSE", text="of b")
    inner = chorus.plan(recipe(pair))
    chorus.merge({"merge_method": "linear", "models": [{"model": inner, "parameters": {"weight": 1.0}}]}, out)
    assert (out / "LICENSE").read_text() == "of b"
    assert set(load_all(out)) == set(load_all(pair[0]))
    assert CONFIGS["qwen2"]["vocab_size"] == json.loads((out / "config.json").read_text())["vocab_size"]


def test_a_planned_merge_takes_its_features_from_whoever_has_a_processor(pair):
    a, b = pair
    put(b, "preprocessor_config.json", text="{}")
    assert chorus.plan(recipe(pair)).model().directory == b
    put(a, "preprocessor_config.json", text="{}")
    assert chorus.plan(recipe(pair)).model().directory == a


def test_a_config_that_names_its_weights_does_not_name_the_results(pair, out):
    a, _ = pair
    (a / "model.safetensors").rename(a / "own.safetensors")
    settings = json.loads((a / "config.json").read_text())
    (a / "config.json").write_text(json.dumps({**settings, "transformers_weights": "own.safetensors"}))
    chorus.merge(recipe([a]), out)
    assert "transformers_weights" not in json.loads((out / "config.json").read_text())


def test_room_is_asked_for_what_is_carried_too(pair, out, monkeypatch):
    from chorus.checkpoints import writer
    from chorus.errors import OutputError

    put(pair[0], "language_model/5gram.bin", text="x" * 3_000_000)
    free = writer.shutil.disk_usage(out.parent)._replace(free=2_000_000)
    monkeypatch.setattr(writer.shutil, "disk_usage", lambda path: free)
    with pytest.raises(OutputError, match=r"needs 0\.0 GB"):
        chorus.merge(recipe(pair), out)
