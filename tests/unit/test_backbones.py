"""Examples, batches and transcripts of every kind of model, on tiny models of the real classes."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from chorus.data.utterance import Utterance
from chorus.errors import CheckpointError, DataError, RecipeError
from chorus.models.batches import as_taken
from chorus.models.recogniser import Transcript
from chorus.models.speech_llm import SpeechLlmRecogniser
from chorus.tasks.asr import ASR
from chorus.train.adapters import by_name, check_ranks, freeze, freeze_unlearned, places, roles_of, summary
from chorus.train.backbones.choose import load_backbone
from chorus.train.backbones.protocol import IGNORED, ROWS
from chorus.train.config import AdapterSettings, Augment
from chorus.train.examples import StreamedSet, stream
from chorus.train.fitness import keep_what_fits
from chorus.train.layers import load_train_config
from chorus.train.rows import TrainingRows, gather
from chorus.transcribe.backends.choose import BACKENDS
from chorus.transcribe.backends.protocol import Sound
from chorus.transcribe.decoding import Decoding
from chorus.transcribe.request import Request
from chorus.transcribe.systems import open_system
from chorus.transcribe.test_sets import TestSet
from chorus.transcribe.transcriber import load_backend
from models import build
from sounds import BASE, corpus, mms, tiny, whisper_tokenizer

NONE = Augment()


def loaded(base, manifest="m.csv", *, texts=(), **settings):
    document = {"model": {"base": str(base)}, "data": {"train": str(manifest)}}
    config = load_train_config(document, overrides=[f"{k}={v}" for k, v in settings.items()])
    return load_backbone(config, "cpu", texts=texts), config


@pytest.fixture(scope="module")
def speech_rows(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rows")
    manifest, _ = corpus(folder)
    config = load_train_config({"model": {"base": "b"}, "data": {"train": str(manifest)}})
    return manifest, gather(config).train


@pytest.fixture(scope="module")
def whisper(speech_rows):
    return loaded(BASE, speech_rows[0], **{"train.window_s": "[3, 5]", "data.timestamps": 0.5})[0]


# ---- Whisper ----


def test_targets_hold_language_task_text_and_one_end(whisper, speech_rows):
    row = speech_rows[1][0].row
    plain = whisper.targets(row, 0.6, timestamps=False)
    assert whisper.tokenizer.decode(plain) == "<|en|><|transcribe|><|notimestamps|> one<|endoftext|>"
    timed = whisper.targets(row, 0.6, timestamps=True)
    assert timed[2] == whisper.token("<|0.00|>")
    assert timed[-2] == whisper.token("<|0.60|>")
    assert timed[-1] == whisper.tokenizer.eos_token_id
    assert whisper.token("<|startoftranscript|>") not in plain + timed  # the model puts it before them


def test_the_model_sees_one_start_and_the_end_has_a_loss(whisper, speech_rows):
    from transformers.models.whisper.modeling_whisper import shift_tokens_right

    batch = whisper.collate([whisper.example(u, None, NONE) for u in speech_rows[1][:4]])
    config = whisper.model.config
    fed = shift_tokens_right(batch["labels"], config.pad_token_id, config.decoder_start_token_id)
    assert (fed == config.decoder_start_token_id).sum() == 4
    assert (batch["labels"] == whisper.tokenizer.eos_token_id).sum() == 4
    widths = (batch["labels"] != IGNORED).sum(1)
    assert int(widths.max()) == batch["labels"].shape[1]
    assert batch["rows"].tolist() == [-1] * 4


def test_languages_and_tasks_come_from_the_row(whisper, speech_rows):
    row = speech_rows[1][0].row
    for name in ("pt", "pt-BR", "pt_br", "Portuguese"):
        assert whisper.prefix(replace(row, language=name))[0] == whisper.token("<|pt|>")
    assert not list(whisper.limits.problems([replace(row, language="pt-BR")]))
    assert whisper.prefix(replace(row, extra={"task": "translate"}))[1] == whisper.token("<|translate|>")
    assert whisper.prefix(replace(row, extra={"task": "st"}))[1] == whisper.token("<|translate|>")
    with pytest.raises(DataError, match='the tokenizer knows no language "xx"'):
        whisper.prefix(replace(row, language="xx"))
    with pytest.raises(DataError, match="no language"):
        whisper.prefix(replace(row, language=""))
    with pytest.raises(DataError, match='unknown task "translat"; did you mean "translate"'):
        whisper.prefix(replace(row, extra={"task": "translat"}))


def test_a_short_window_is_the_beginning_of_the_long_one(whisper, speech_rows):
    """Positions of a short window are the first of the full table: the same encoder layer by layer, fewer frames."""
    model = whisper.model.eval()
    features = whisper.features.cached(speech_rows[1][0].key(), speech_rows[1][0].audio)
    short = {"input_features": whisper.features.window([features], 300)}
    seen = {}
    hook = model.model.encoder.layers[0].register_forward_pre_hook(lambda m, a: seen.__setitem__("x", a[0]))
    with torch.no_grad(), whisper.window(model, short):
        model.model.encoder(short["input_features"])
    first = seen["x"]
    with torch.no_grad():
        model.model.encoder(whisper.features.window([features], 3000))
    hook.remove()
    assert first.shape[1] == 150
    assert torch.allclose(first[:, :149], seen["x"][:, :149], atol=1e-5)
    assert model.config.max_source_positions == 1500
    assert model.model.encoder.embed_positions.num_embeddings == 1500


def test_windows_are_drawn_and_always_hold_the_speech(whisper, speech_rows):
    examples = [whisper.example(u, stream(0, 0, i), NONE) for i, u in enumerate(speech_rows[1][:2])]
    widths = {whisper.collate([replace(e, draw=d) for e in examples])["input_features"].shape[-1] for d in range(4)}
    assert widths == {300, 500}
    long = replace(examples[0], audio=np.zeros((80, 403), np.float32))
    assert whisper.collate([long])["input_features"].shape[-1] == 500


def test_streamed_rows_have_the_features_of_their_own_audio(whisper, speech_rows):
    """Cells of a stream have no fingerprint: what is cached must be known by the sound itself."""
    import gc

    rows = speech_rows[1]
    cells = [(u.row, {"bytes": u.row.audio.read_bytes(), "path": None}) for u in rows]
    bad = [(replace(rows[0].row, text=" "), cells[0][1]), (replace(rows[0].row, language="tlh"), cells[0][1])]

    class Rows(list):
        def set_epoch(self, epoch):
            pass

    for _ in range(2):  # the second time from the cache
        found = list(StreamedSet(Rows([*bad, *cells]), whisper, NONE, 0))
        gc.collect()
        assert len(found) == len(rows)
        for example, u in zip(found, rows, strict=True):
            assert np.array_equal(example.audio, whisper.features(u.audio()))


def test_half_of_the_targets_have_timestamps(whisper, speech_rows):
    u = speech_rows[1][0]
    timed = [whisper.token("<|0.00|>") in whisper.example(u, stream(0, 0, i), NONE).labels for i in range(200)]
    assert 70 < sum(timed) < 130
    measured = [
        whisper.token("<|0.00|>")
        in whisper.example(replace(u, row=replace(u.row, start=i / 1000, end=9.0)), None, NONE).labels
        for i in range(40)
    ]
    assert 8 < sum(measured) < 32


def test_transcripts_of_rows_in_two_languages_keep_their_order(whisper, speech_rows):
    rows = [replace(u, row=replace(u.row, language="pt" if i % 2 else "en")) for i, u in enumerate(speech_rows[1][:4])]
    together = whisper.transcribe(whisper.model, rows, max_new_tokens=6)
    alone = [whisper.transcribe(whisper.model, [u], max_new_tokens=6)[0] for u in rows]
    assert together == alone


def test_english_only_models_have_no_language_in_their_targets(tmp_path, speech_rows):
    english = {"eos_token_id": 50256, "pad_token_id": 50256, "bos_token_id": 50256, "decoder_start_token_id": 50257}
    build("whisper", vocab_size=51864, **english).save_pretrained(tmp_path / "en")
    whisper_tokenizer(tmp_path / "en", "en")
    shutil.copy(BASE / "preprocessor_config.json", tmp_path / "en")
    backbone, _ = loaded(tmp_path / "en", speech_rows[0])
    row = replace(speech_rows[1][0].row, language="")
    assert (
        backbone.tokenizer.decode(backbone.targets(row, 0.6, timestamps=False)) == "<|notimestamps|> one<|endoftext|>"
    )
    assert backbone.model.generation_config.is_multilingual is False
    assert len(backbone.transcribe(backbone.model, speech_rows[1][:2], max_new_tokens=3)) == 2


def test_generation_settings_are_completed_from_the_tokenizer(whisper):
    settings = whisper.model.generation_config
    assert settings.lang_to_id["<|pt|>"] == 50267
    assert settings.task_to_id == {"transcribe": 50359, "translate": 50358}
    assert settings.no_timestamps_token_id == 50363


def test_sinusoids_do_not_learn(whisper):
    """transformers 5 forgets what its classes freeze; nothing may train or decay them."""
    freeze_unlearned(whisper.model)
    assert not whisper.model.model.encoder.embed_positions.weight.requires_grad
    assert whisper.model.model.decoder.embed_positions.weight.requires_grad


# ---- the others ----


@pytest.mark.parametrize("kind", ["qwen2_audio", "omni"])
def test_speech_llms_learn_the_answer_only(tmp_path, speech_rows, kind):
    backbone, _ = loaded(tiny(tmp_path / kind, kind), speech_rows[0])
    batch = backbone.collate([backbone.example(u, None, NONE) for u in speech_rows[1][:3]])
    for i, u in enumerate(speech_rows[1][:3]):
        learnt = batch["labels"][i][batch["labels"][i] != IGNORED].tolist()
        assert backbone.tokenizer.decode(learnt) == f"{u.row.text}<|im_end|>"
        shown = backbone.tokenizer.decode(batch["input_ids"][i])
        assert ASR.instruction(u.row) in shown
        assert shown.count("<|audio_bos|>") == 1
    batch.pop("rows")
    loss = backbone.model(**batch).loss  # refused by the model where audio tokens and frames differ in number
    loss.backward()
    assert torch.isfinite(loss)
    heard = {n for n, p in backbone.model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert any("audio_tower" in n for n in heard)
    assert len(backbone.transcribe(backbone.model, speech_rows[1][:3], max_new_tokens=3)) == 3


def test_speech_llms_are_asked_for_each_rows_language(tmp_path, speech_rows, monkeypatch):
    """In training and in decoding; a row's own question and the configured one go before the task's."""
    base, (first, second, third) = tiny(tmp_path / "q", "qwen2_audio"), speech_rows[1][:3]
    rows = [
        replace(first, row=replace(first.row, extra={"target_language": "de"})), second,
        replace(third, row=replace(third.row, extra={"target_language": "de", "prompt": "Auf Deutsch?"})),
    ]  # fmt: skip
    german, english = (f"Translate this audio to {name}." for name in ("German", "English"))
    backbone, _ = loaded(base, speech_rows[0], task="st")
    learnt = [backbone.tokenizer.decode(backbone.example(u, None, NONE).prompt) for u in rows]
    assert [q in text for q, text in zip((german, english, "Auf Deutsch?"), learnt, strict=True)] == [True] * 3
    asked = []
    monkeypatch.setattr(
        SpeechLlmRecogniser, "inputs", lambda self, speech: asked.extend(one.prompt for one in speech) or {}
    )
    monkeypatch.setattr(SpeechLlmRecogniser, "texts", lambda self, model, inputs, **more: [Transcript("")] * len(rows))
    backbone.transcribe(backbone.model, rows, max_new_tokens=3)
    sounds = [Sound(u.audio(), u.row) for u in rows]
    for settings in ({}, {"prompt": "Say it"}):
        backend = load_backend(Request(open_system(str(base)), TestSet({}), Decoding(task="st", **settings)))
        backend.transcribe(sounds)
    assert asked == [german, english, "Auf Deutsch?"] * 2 + ["Say it", "Say it", "Auf Deutsch?"]
    configured, _ = loaded(base, speech_rows[0], task="st", **{"data.prompt": "Say it"})
    assert [configured.asked(u.row) for u in rows] == ["Say it", "Say it", "Auf Deutsch?"]


def test_an_answer_does_not_depend_on_its_batch(tmp_path, speech_rows):
    backbone, _ = loaded(tiny(tmp_path / "q", "qwen2_audio"), speech_rows[0])
    rows = [
        *speech_rows[1][:2],
        replace(speech_rows[1][2], row=replace(speech_rows[1][2].row, extra={"prompt": "Say it: " * 9})),
    ]
    together = backbone.transcribe(backbone.model, rows, max_new_tokens=5)
    assert together == [backbone.transcribe(backbone.model, [u], max_new_tokens=5)[0] for u in rows]


def test_a_tokenizer_of_another_model_is_refused(tmp_path, speech_rows):
    import json

    base = tiny(tmp_path / "q", "qwen2_audio")
    path = base / "config.json"
    settings = json.loads(path.read_text())
    key = "audio_token_id" if "audio_token_id" in settings else "audio_token_index"
    path.write_text(json.dumps({**settings, key: 7}))
    with pytest.raises(CheckpointError, match="the tokenizer's <\\|AUDIO\\|> is 259, the config's 7"):
        loaded(base, speech_rows[0])


def test_ctc_texts_in_the_vocabularys_case(tmp_path, speech_rows):
    backbone, _ = loaded(tiny(tmp_path / "w", "wav2vec2"), speech_rows[0])
    u = replace(speech_rows[1][0], row=replace(speech_rows[1][0].row, text="ONE Two"))
    labels = backbone.example(u, None, NONE).labels
    assert backbone.tokenizer.decode(labels, group_tokens=False) == "one two"
    batch = backbone.collate([backbone.example(x, None, NONE) for x in speech_rows[1][:3]])
    assert batch["attention_mask"].sum(1).tolist() == [round(x.duration_s * 16_000) for x in speech_rows[1][:3]]
    assert not any(p.requires_grad for n, p in backbone.model.named_parameters() if "feature_extractor" in n)


def test_ctc_texts_that_their_audio_has_no_frames_for(tmp_path, speech_rows):
    backbone, _ = loaded(tiny(tmp_path / "w", "wav2vec2"), speech_rows[0])
    u = speech_rows[1][0]
    frames = int(backbone.model._get_feat_extract_output_lengths(torch.tensor([round(u.duration_s * 16_000)]))[0])

    def why(text):
        return backbone.misfit(replace(u, row=replace(u.row, text=text)))

    assert why("on" * (frames // 2)) == ""
    assert why("on" * frames) == f"{2 * frames} frames are needed, the audio has {frames}"
    assert why("o" * frames) == f"{2 * frames - 1} frames are needed, the audio has {frames}"
    rows = TrainingRows([u, replace(u, row=replace(u.row, text="on" * frames))], [], [])
    with pytest.raises(DataError, match="1 text too long for its audio"):
        keep_what_fits(rows, backbone, skip_bad=False)
    keep_what_fits(rows, backbone, skip_bad=True)
    assert (len(rows.train), list(rows.left_out)) == (1, ["text too long for its audio"])


def test_a_ctc_model_of_features_needs_no_file_of_its_own(tmp_path, speech_rows):
    """Wav2Vec2-BERT takes stacked log-mel frames where wav2vec2 takes samples."""
    backbone, _ = loaded(tiny(tmp_path / "b", "wav2vec2_bert"), speech_rows[0])
    rows = speech_rows[1][:3]
    batch = backbone.collate([backbone.example(u, None, NONE) for u in rows])
    assert batch["input_features"].shape[2] == 160
    assert abs(int(batch["attention_mask"].sum(1)[0]) - backbone.recogniser.steps(rows[0].duration_s)) <= 1
    batch.pop(ROWS)
    assert torch.isfinite(backbone.model(**batch).loss)
    long = replace(rows[0], row=replace(rows[0].row, text="one " * 20))
    assert "frames are needed, the audio has 30" in backbone.misfit(long)


@pytest.mark.parametrize("kind", ["whisper", "qwen2_audio", "wav2vec2", "wav2vec2_bert", "qwen2"])
def test_a_base_in_a_small_type_is_measured_in_it(tmp_path, speech_rows, kind):
    """Features are float32; a base kept in bfloat16 under an adapter must get them in its own type."""
    base = BASE if kind == "whisper" else tiny(tmp_path / kind, kind)
    backbone, _ = loaded(base, speech_rows[0], **{"model.dtype": "bfloat16"})
    assert next(backbone.model.parameters()).dtype == torch.bfloat16
    rows = speech_rows[1][:2]
    assert len(backbone.transcribe(backbone.model, rows, max_new_tokens=2)) == 2
    batch = as_taken(backbone.collate([backbone.example(u, None, NONE) for u in rows]), backbone.model)
    batch.pop(ROWS)
    with backbone.window(backbone.model, batch):
        assert torch.isfinite(backbone.model(**batch).loss)


@pytest.mark.parametrize("kind", ["wav2vec2", "qwen2_audio"])
def test_training_measures_what_evaluation_decodes(tmp_path, speech_rows, kind):
    base = tiny(tmp_path / kind, kind)
    backbone, _ = loaded(base, speech_rows[0])
    rows = speech_rows[1][:4]
    measured = backbone.transcribe(backbone.model, rows, max_new_tokens=5)
    decoder = BACKENDS.get("transformers")(open_system(str(base)), Decoding(max_new_tokens=5), "cpu")
    decoded = decoder.transcribe([Sound(u.audio(), u.row, u.key()) for u in rows])
    assert measured == [one.text for one in decoded]


def test_a_pretrained_encoder_gets_the_letters_of_its_texts(tmp_path, speech_rows):
    backbone, _ = loaded(tiny(tmp_path / "w", "wav2vec2_pretrained"), speech_rows[0], texts=["olá mundo"])
    assert set(backbone.tokenizer.get_vocab()) >= set("olámund") | {"|", "<pad>", "<unk>"}
    assert backbone.model.lm_head.out_features == len(backbone.tokenizer)
    assert backbone.default_save_modules == ("lm_head",)


def test_an_mms_takes_the_adapter_and_the_letters_of_its_language(tmp_path, speech_rows):
    backbone, _ = loaded(mms(tmp_path / "mms"), speech_rows[0], **{"model.language_adapter": "fra"})
    assert backbone.tokenizer.target_lang == "fra"
    assert "é" in backbone.tokenizer.get_vocab()
    assert backbone.model.lm_head.out_features == 10
    stored = load_file(tmp_path / "mms" / "adapter.fra.safetensors")
    own = backbone.model._get_adapters()
    assert all(torch.equal(stored[name], own[name]) for name in stored)
    u = replace(speech_rows[1][0], row=replace(speech_rows[1][0].row, text="bébé"))
    labels = backbone.example(u, None, NONE).labels
    assert backbone.tokenizer.decode(labels, group_tokens=False) == "bébé"
    with pytest.raises(CheckpointError, match='has no language "deu"; known: eng, fra'):
        loaded(tmp_path / "mms", speech_rows[0], **{"model.language_adapter": "deu"})


def test_language_models_learn_texts_and_not_prompts(tmp_path):
    backbone, _ = loaded(tiny(tmp_path / "q", "qwen2"))
    from chorus.data.manifest import Row

    rows = [Utterance(Row(text="four")), Utterance(Row(text="four", extra={"prompt": "two and two?"}))]
    batch = backbone.collate([backbone.example(u, None, NONE) for u in rows])
    for i in range(2):
        learnt = batch["labels"][i][batch["labels"][i] != IGNORED]
        assert backbone.tokenizer.decode(learnt) == "four<|endoftext|>"
    assert backbone.tokenizer.decode(batch["input_ids"][1]).startswith("two and two?four")
    assert len(backbone.transcribe(backbone.model, rows, max_new_tokens=2)) == 2


def test_what_cannot_be_trained_is_told(tmp_path):
    import transformers

    transformers.BertForMaskedLM(
        transformers.BertConfig(
            hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, vocab_size=9
        )
    ).save_pretrained(tmp_path / "bert")
    with pytest.raises(CheckpointError, match="BertForMaskedLM cannot be trained here"):
        loaded(tmp_path / "bert")
    with pytest.raises(CheckpointError, match="not a model"):
        loaded(tmp_path / "nothing")
    for name in ("config.json", "model.safetensors"):
        (tmp_path / "bare").mkdir(exist_ok=True)
        (tmp_path / "bare" / name).write_bytes((BASE / name).read_bytes())
    with pytest.raises(CheckpointError, match="no tokenizer"):
        loaded(tmp_path / "bare")


# ---- where adapters go ----


@pytest.mark.parametrize(
    ("settings", "count", "told"),
    [
        ({}, 2 * 6 + 1 * 10, "encoder attention 8, encoder mlp 4"),
        ({"roles": ["decoder"]}, 6, "decoder attention 4, decoder mlp 2"),
        ({"roles": ["cross_attention"], "modules": "attention"}, 4, "cross_attention attention 4"),
        ({"roles": ["encoder"], "modules": ["q_proj", "v_proj"]}, 4, "encoder attention 4"),
        ({"modules": ["fc1"]}, 3, "encoder mlp 2, decoder mlp 1"),
    ],
)
def test_adapters_go_where_their_roles_say(whisper, settings, count, told):
    found = places(whisper.model, AdapterSettings(**settings), whisper.default_roles)
    assert len(found) == count
    assert told in summary(whisper.model, found)


def test_adapters_of_an_omni_leave_its_eyes_alone(tmp_path, speech_rows):
    backbone, _ = loaded(tiny(tmp_path / "o", "omni"), speech_rows[0])
    found = places(backbone.model, AdapterSettings(), backbone.default_roles)
    assert "projector linear 1" in summary(backbone.model, found)
    assert not any("visual" in name for name in found)
    assert all("visual" in name for name in places(backbone.model, AdapterSettings(roles=["vision"]), ()))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"modules": ["o_proj"]}, '"o_proj" matches no module of encoder, decoder, cross_attention; did you mean'),
        ({"roles": ["projector"]}, 'the model has no "projector"'),
        ({"roles": ["encoders"]}, 'did you mean "encoder"'),
    ],
)
def test_places_that_do_not_exist(whisper, settings, message):
    with pytest.raises(RecipeError) as error:
        places(whisper.model, AdapterSettings(**settings), whisper.default_roles)
    assert message in error.value.message


def test_ranks_and_patterns_that_do_not_fit(whisper):
    modules = places(whisper.model, AdapterSettings(), whisper.default_roles)
    check_ranks(whisper.model, modules, AdapterSettings(rank=64))
    with pytest.raises(
        RecipeError, match=r"rank 65 is above what model\.encoder\.layers\.0\..* can have \(64 x 64: 64\)"
    ):
        check_ranks(whisper.model, modules, AdapterSettings(rank=65))
    with pytest.raises(RecipeError, match='rank_pattern: "q_prj" matches no module'):
        check_ranks(whisper.model, modules, AdapterSettings(rank_pattern={"q_prj": 2}))
    check_ranks(whisper.model, modules, AdapterSettings(rank=65, rank_pattern={".*": 4}))
    with pytest.raises(RecipeError, match="has a bracket that is not closed"):
        check_ranks(whisper.model, modules, AdapterSettings(rank_pattern={"(q_proj": 2}))


def test_patterns_reach_peft_as_names(whisper):
    """Its `re` would not come to an end with some; what they match is matched here, the first that does."""
    from peft.utils.other import get_pattern_key

    modules = places(whisper.model, AdapterSettings(), whisper.default_roles)
    found = by_name({"q_proj": 2, "(.*)*v_proj": 3, r"encoder\.layers\.0\..*": 4}, modules)
    harmless = {"q_proj": 2, ".*v_proj": 3, r"encoder\.layers\.0\..*": 4}
    theirs = [harmless.get(get_pattern_key(list(harmless), m)) for m in modules]
    assert [found.get(get_pattern_key(list(found), m)) for m in modules] == theirs
    assert set(theirs) == {None, 2, 3, 4}
    assert not any("*" in name for name in found)


def test_components_can_be_frozen(whisper):
    model = whisper.model
    count = freeze(model, ["encoder", "embeddings"])
    roles = roles_of(model)
    still = {roles[n].component for n, p in model.named_parameters() if p.requires_grad}
    assert still == {"decoder", "cross_attention"}
    assert count == sum(
        p.numel() for n, p in model.named_parameters() if roles[n].component in ("encoder", "embeddings")
    )
    for p in model.parameters():
        p.requires_grad_(True)
    with pytest.raises(RecipeError, match='the model has no "encoderr"; did you mean "encoder"'):
        freeze(model, ["encoderr"])
