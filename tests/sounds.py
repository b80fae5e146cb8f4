"""Small recordings, manifests, and tiny speech models of the real classes with tokenizers of their own."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from chorus.data.audio import RATE, write_flac
from chorus.data.manifest import Row, write_manifest

ROOT = Path(__file__).parents[1]
DIGITS = ROOT / "examples" / "digits"
BASE = DIGITS / "base"
MANIFEST = DIGITS / "data" / "manifest.csv"
WORDS = ("one", "two", "three", "four", "five", "six")


def tone(seconds: float, pitch_hz: float = 220.0, *, level: float = 0.3, seed: int = 0) -> np.ndarray:
    """A tone with a little noise, so that no two are the same."""
    time = np.arange(round(seconds * RATE)) / RATE
    noise = np.random.default_rng(seed).normal(0, 0.01, len(time))
    return (level * np.sin(2 * np.pi * pitch_hz * time) + noise * (level > 0)).astype(np.float32)


def corpus(folder: Path, count: int = 12, *, speakers: int = 3, seconds: float = 0.6) -> tuple[Path, list[Row]]:
    """`count` tones as FLAC with a manifest: the first two thirds train, then dev."""
    rows = []
    for i in range(count):
        name = f"audio/{i:03d}.flac"
        write_flac(folder / name, tone(seconds + 0.05 * (i % 4), 200 + 40 * i, seed=i))
        split = "train" if i < 2 * count // 3 else "dev"
        rows.append(Row(name, WORDS[i % len(WORDS)], "en", f"s{i % speakers}", f"d{i % 2}", split, root=folder))
    return write_manifest(rows, folder / "manifest.csv"), rows


def again(folder: Path, rows: list[Row], name: str = "manifest.csv", **changes: Any) -> Path:
    """The manifest with the first row changed."""
    return write_manifest([replace(rows[0], **changes), *rows[1:]], folder / name)


def byte_tokenizer(specials: list[str]) -> Any:
    """A byte-level BPE of 256 letters and some special tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(specials)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=specials[0], pad_token=specials[0])


SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>"]
TEXT = {
    "vocab_size": 272,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}
TOWER = {"d_model": 16, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 24, "num_mel_bins": 80}


def tiny(directory: Path, kind: str, seed: int = 0) -> Path:
    """A model directory of a kind: qwen2, qwen2_audio, omni, qwen3_asr, voxtral, wav2vec2 and its kin."""
    import transformers

    torch.manual_seed(seed)
    if kind in TRANSCRIBERS:
        return _transcriber(directory, kind)
    if kind == "wav2vec2_bert":
        return _wav2vec2_bert(directory)
    if kind.startswith("wav2vec2"):
        return _wav2vec2(directory, vocabulary=kind == "wav2vec2")
    tokenizer = byte_tokenizer(SPECIALS)
    audio_token = tokenizer.convert_tokens_to_ids("<|AUDIO|>")
    if kind == "qwen2":
        model: Any = transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**TEXT, tie_word_embeddings=True))
    elif kind == "qwen2_audio":
        config = transformers.Qwen2AudioConfig(
            audio_config={**TOWER, "max_source_positions": 100, "model_type": "qwen2_audio_encoder"},
            text_config={**TEXT, "model_type": "qwen2"},
            audio_token_index=audio_token,
        )
        config.audio_token_id = audio_token
        model = transformers.Qwen2AudioForConditionalGeneration(config)
    else:
        model = transformers.Qwen2_5OmniThinkerForConditionalGeneration(_omni(audio_token))
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    if kind != "qwen2":
        extractor = transformers.WhisperFeatureExtractor(feature_size=80, chunk_length=2)
        extractor.save_pretrained(directory)
    return directory


TRANSCRIBERS = ("qwen3_asr", "voxtral")  # speech LLMs that transcribe where nothing is asked
ASR_SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|audio_pad|>", "<|audio_start|>", "<|audio_end|>"]
MISTRALS = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AUDIO]", "[BEGIN_AUDIO]", "[TRANSCRIBE]"]


def _transcriber(directory: Path, kind: str) -> Path:
    import transformers

    directory.mkdir(parents=True, exist_ok=True)
    if kind == "voxtral":
        config = transformers.VoxtralConfig(
            audio_config={"hidden_size": 16, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
                          "num_mel_bins": 80, "max_source_positions": 100, "vocab_size": 8},
            text_config={**TEXT, "vocab_size": 264, "head_dim": 8, "model_type": "llama"},
            audio_token_id=MISTRALS.index("[AUDIO]"),
        )  # fmt: skip
        model: Any = transformers.VoxtralForConditionalGeneration(config)
        _tekken(directory / "tekken.json")
        extractor: Any = transformers.WhisperFeatureExtractor(feature_size=80, chunk_length=2)
    else:
        tokenizer = byte_tokenizer(ASR_SPECIALS)
        tokenizer.add_tokens(["<asr_text>"])  # in the published ones no special token either
        config = transformers.Qwen3ASRConfig(
            audio_config={**TOWER, "num_mel_bins": 80, "downsample_hidden_size": 8, "output_dim": 32},
            text_config={**TEXT, "head_dim": 8, "model_type": "qwen3"},
            audio_token_id=tokenizer.convert_tokens_to_ids("<|audio_pad|>"), pad_token_id=256, eos_token_id=[256, 258],
        )  # fmt: skip
        model = transformers.Qwen3ASRForConditionalGeneration(config)
        tokenizer.save_pretrained(directory)
        extractor = transformers.Qwen3ASRFeatureExtractor(feature_size=80, chunk_length=2)
    model.save_pretrained(directory)
    extractor.save_pretrained(directory)
    return directory


def _tekken(path: Path) -> None:
    """A vocabulary in the one file that Mistral's models have: control tokens, then the bytes."""
    special = [{"rank": i, "token_str": name, "is_control": True} for i, name in enumerate(MISTRALS)]
    letters = [{"rank": i, "token_bytes": base64.b64encode(bytes([i])).decode(), "token_str": None} for i in range(256)]
    # words and signs apart, as Mistral's own have it: else a control token's name would be a word
    config = {"pattern": r"\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+", "num_vocab_tokens": 256,
              "default_vocab_size": 264, "default_num_special_tokens": len(MISTRALS), "version": "v7"}  # fmt: skip
    path.write_text(json.dumps({"config": config, "vocab": letters, "special_tokens": special}))


def _omni(audio_token: int) -> Any:
    import transformers

    text = {
        **TEXT,
        "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0},
        "model_type": "qwen2_5_omni_text",
    }
    vision = {
        "depth": 1,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_heads": 2,
        "out_hidden_size": 32,
        "fullatt_block_indexes": [0],
    }
    return transformers.models.qwen2_5_omni.configuration_qwen2_5_omni.Qwen2_5OmniThinkerConfig(
        audio_config={**TOWER, "max_source_positions": 100, "output_dim": 32, "n_window": 50},
        vision_config=vision,
        text_config=text,
        audio_token_index=audio_token,
        audio_token_id=audio_token,
        audio_start_token_id=audio_token + 1,
        audio_end_token_id=audio_token + 2,
        image_token_id=268,
        image_token_index=268,
        video_token_id=269,
        video_token_index=269,
        vision_start_token_id=270,
        vision_end_token_id=271,
    )


def whole_omni(directory: Path, seed: int = 0, *, tied: bool = False) -> Path:
    """Qwen2.5-Omni in small, whole: the thinker of `tiny`, talker, vocoder, and the speakers in a file of their own."""
    import transformers

    torch.manual_seed(seed)
    tokenizer = byte_tokenizer(SPECIALS)
    thinker = _omni(tokenizer.convert_tokens_to_ids("<|AUDIO|>")).to_dict()
    talker = {**thinker["text_config"], "vocab_size": 64, "embedding_size": TEXT["hidden_size"], "pad_token_id": None}
    dit = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "head_dim": 8, "block_size": 8,
           "enc_channels": [8, 8, 8, 8, 24], "enc_kernel_sizes": [5, 3, 3, 3, 1], "enc_dim": 8, "enc_emb_dim": 8,
           "emb_dim": 16, "enc_attention_channels": 8, "enc_res2net_scale": 2, "enc_se_channels": 8, "num_embeds": 50,
           "mel_dim": 8}  # fmt: skip
    vocoder = {"mel_dim": 8, "upsample_initial_channel": 32, "upsample_rates": [2], "upsample_kernel_sizes": [4]}
    talker.pop("model_type")
    thinker["tie_word_embeddings"] = thinker["text_config"]["tie_word_embeddings"] = tied
    config = transformers.Qwen2_5OmniConfig(
        thinker_config=thinker, talker_config=talker, token2wav_config={"dit_config": dit, "bigvgan_config": vocoder}
    )
    transformers.Qwen2_5OmniForConditionalGeneration(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    transformers.WhisperFeatureExtractor(feature_size=80, chunk_length=2).save_pretrained(directory)
    torch.save({"Chelsie": {"cond": torch.rand(1, 192), "ref_mel": torch.rand(1, 10, 80)}}, directory / "spk_dict.pt")
    return directory


def mms(directory: Path) -> Path:
    """A tiny MMS: an adapter and a vocabulary for each of two languages."""
    import transformers
    from safetensors.torch import save_file

    torch.manual_seed(0)
    vocabulary = {
        language: {t: i for i, t in enumerate(["<pad>", "<unk>", "|", *letters])}
        for language, letters in (("eng", sorted(set("".join(WORDS)))), ("fra", sorted("abcdeéè")))
    }
    config = transformers.Wav2Vec2Config(**_wav2vec2_sizes(len(vocabulary["eng"])), adapter_attn_dim=4)
    model = transformers.Wav2Vec2ForCTC(config)
    model.save_pretrained(directory)
    french = transformers.Wav2Vec2ForCTC(
        transformers.Wav2Vec2Config(**_wav2vec2_sizes(len(vocabulary["fra"])), adapter_attn_dim=4)
    )
    for name, one in (("eng", model), ("fra", french)):
        weights = {k: v.detach().contiguous() for k, v in one._get_adapters().items()}
        save_file(weights, directory / f"adapter.{name}.safetensors", metadata={"format": "pt"})
    (directory / "vocab.json").write_text(json.dumps(vocabulary))
    tokenizer = transformers.Wav2Vec2CTCTokenizer(
        str(directory / "vocab.json"), pad_token="<pad>", unk_token="<unk>", word_delimiter_token="|", bos_token=None,
        eos_token=None, target_lang="eng",
    )  # fmt: skip
    tokenizer.save_pretrained(directory)
    transformers.Wav2Vec2FeatureExtractor(return_attention_mask=True).save_pretrained(directory)
    return directory


def _wav2vec2_sizes(letters: int) -> dict[str, Any]:
    return {
        "vocab_size": letters, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 24, "conv_dim": (8, 8, 8), "conv_stride": (5, 4, 4), "conv_kernel": (10, 8, 8),
        "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2, "num_feat_extract_layers": 3,
        "pad_token_id": 0, "mask_time_prob": 0.0,
    }  # fmt: skip


def _wav2vec2_bert(directory: Path) -> Path:
    """Conformer on stacked log-mel features, where wav2vec2 takes samples."""
    import transformers

    letters = ["<pad>", "<unk>", "|", *sorted(set("".join(WORDS)))]
    config = transformers.Wav2Vec2BertConfig(
        vocab_size=len(letters), hidden_size=16, output_hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=24, feature_projection_input_dim=160, conv_depthwise_kernel_size=3, add_adapter=False,
        pad_token_id=0, mask_time_prob=0.0,
    )  # fmt: skip
    transformers.Wav2Vec2BertForCTC(config).save_pretrained(directory)
    _letters(directory, letters)
    transformers.SeamlessM4TFeatureExtractor(feature_size=80, num_mel_bins=80, stride=2).save_pretrained(directory)
    return directory


def _letters(directory: Path, letters: list[str]) -> None:
    import transformers

    (directory / "vocab.json").write_text(json.dumps({t: i for i, t in enumerate(letters)}))
    transformers.Wav2Vec2CTCTokenizer(
        str(directory / "vocab.json"), pad_token="<pad>", unk_token="<unk>", word_delimiter_token="|",
        bos_token=None, eos_token=None,
    ).save_pretrained(directory)  # fmt: skip


def _wav2vec2(directory: Path, *, vocabulary: bool) -> Path:
    import transformers

    letters = ["<pad>", "<unk>", "|", *sorted(set("".join(WORDS)))]
    config = transformers.Wav2Vec2Config(**_wav2vec2_sizes(len(letters)))
    cls = transformers.Wav2Vec2ForCTC if vocabulary else transformers.Wav2Vec2Model
    cls(config).save_pretrained(directory)
    if vocabulary:
        _letters(directory, letters)
    transformers.Wav2Vec2FeatureExtractor(return_attention_mask=True).save_pretrained(directory)
    return directory


def whisper_tokenizer(directory: Path, kind: str) -> Path:
    """The files of a tokenizer as `v2` has it (the digits example's), as `v3`, or as English-only Whispers (`en`).

    large-v3 has Cantonese after the other languages; English-only models have a letter less. All tokens after that
    have other numbers.
    """
    directory.mkdir(parents=True, exist_ok=True)
    document = json.loads((BASE / "tokenizer.json").read_text(encoding="utf-8"))
    added, vocabulary = document["added_tokens"], document["model"]["vocab"]
    place = next(t["id"] for t in added if t["content"] == "<|translate|>")
    first, step = {"v2": (51865, 0), "v3": (place, 1), "en": (50257, -1)}[kind]
    moved = {i: i + step for i in range(first, 51865)}
    for token in added:
        token["id"] = moved.get(token["id"], token["id"])
    if kind == "v3":
        added.append({**added[1], "content": "<|yue|>", "id": place})
        added.sort(key=lambda token: token["id"])
    if kind == "en":
        (last,) = [name for name, i in vocabulary.items() if i == 50256]
        document["model"]["merges"] = [m for m in document["model"]["merges"] if "".join(m) != last]
        del vocabulary[last]
    for name, i in vocabulary.items():
        vocabulary[name] = moved.get(i, i)
    (directory / "tokenizer.json").write_text(json.dumps(document, ensure_ascii=False), encoding="utf-8")
    settings = json.loads((BASE / "tokenizer_config.json").read_text())
    settings.pop("extra_special_tokens", None)
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    return directory


def never_written(tokenizer: Any) -> list[int]:
    """The `suppress_tokens` of published Whispers, as openai-whisper finds them (tokenizer.py, non_speech_tokens)."""
    several = "<< >> <<< >>> -- --- -( -[ (' (\" (( )) ((( ))) [[ ]] {{ }} ♪♪ ♪♪♪"
    symbols = [*'"#()*+/:;<=>@[\\]^_`{|}~「」『』', *several.split()]
    music = set("♩♪♫♬♭♮♯")
    found = {tokenizer.encode(text, add_special_tokens=False)[0] for text in (" -", " '")}
    for symbol in [*symbols, *music]:
        for text in (symbol, f" {symbol}"):
            ids = tokenizer.encode(text, add_special_tokens=False)
            if len(ids) == 1 or symbol in music:
                found.add(ids[0])
    names = ("transcribe", "translate", "startoftranscript", "startofprev", "startoflm")
    return sorted(found | set(tokenizer.convert_tokens_to_ids([f"<|{name}|>" for name in names])))
