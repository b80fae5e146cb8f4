"""A tiny speech LLM of a real class and the rows of five tasks: `python make.py --data PACKS --out DIR [--kind omni]`.

DIR/base is a Qwen2-Audio (or the thinker of a Qwen2.5-Omni) of random weights, three layers of 96 over a tower of two,
with bytes as tokens. Its weights are drawn five times as large as usual: else almost nothing of the sound reaches the
last layer, and adapters, which leave embeddings and head as they are, have nothing to work on.

DIR/*.csv are the rows of kws, speaker_id and speaker_ver (English digits), asr (Arabic digits) and langid (four
languages), by `digits_en`, `commands_ar`, `sentences_de` and `sentences_nl` below PACKS; general.csv has some of all.
"""

from __future__ import annotations

import argparse
import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from chorus.data.manifest import Row, read_manifest, write_manifest

SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>"]
VOCABULARY, WIDTH, HEADS, SECONDS, SPREAD = 272, 96, 4, 3, 0.1
TEXT = {
    "vocab_size": VOCABULARY, "hidden_size": WIDTH, "intermediate_size": 2 * WIDTH, "num_hidden_layers": 3,
    "num_attention_heads": HEADS, "num_key_value_heads": HEADS, "max_position_embeddings": 1024,
}  # fmt: skip
TOWER = {
    "d_model": WIDTH, "encoder_layers": 2, "encoder_attention_heads": HEADS, "encoder_ffn_dim": 2 * WIDTH,
    "num_mel_bins": 80, "max_source_positions": 50 * SECONDS,
}  # fmt: skip
ROWS = {"train": 1500, "dev": 100, "test": 150}  # of each task
BASE_ROWS = {"train": 150, "dev": 20}  # of each task, from which the base learns a little of all
CUT_S = 2.0  # of sentences: who hears the language of a second knows it


def tokens() -> Any:
    """Bytes, and the special tokens of both models."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={one: i for i, one in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(SPECIALS)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=SPECIALS[0], pad_token=SPECIALS[0]
    )


def qwen2_audio(audio: int) -> Any:
    config = transformers.Qwen2AudioConfig(
        audio_config={**TOWER, "model_type": "qwen2_audio_encoder"}, text_config={**TEXT, "model_type": "qwen2"},
        audio_token_index=audio,
    )  # fmt: skip
    config.audio_token_id = audio
    return transformers.Qwen2AudioForConditionalGeneration(config)


def omni(audio: int) -> Any:
    from transformers.models.qwen2_5_omni.configuration_qwen2_5_omni import Qwen2_5OmniThinkerConfig

    third = WIDTH // HEADS // 6  # of the turns of a head: time, height, width
    text = {
        **TEXT, "model_type": "qwen2_5_omni_text",
        "rope_parameters": {"rope_type": "default", "mrope_section": [third] * 3, "rope_theta": 10000.0},
    }  # fmt: skip
    vision = {
        "depth": 1, "hidden_size": 16, "intermediate_size": 24, "num_heads": 2, "out_hidden_size": WIDTH,
        "fullatt_block_indexes": [0],
    }  # fmt: skip
    free = range(audio + 3, VOCABULARY)
    ids = {name: free[i] for i, name in enumerate(("image", "video", "vision_start", "vision_end"))}
    config = Qwen2_5OmniThinkerConfig(
        audio_config={**TOWER, "output_dim": WIDTH, "n_window": 50}, vision_config=vision, text_config=text,
        audio_token_index=audio, audio_token_id=audio, audio_start_token_id=audio + 1, audio_end_token_id=audio + 2,
        image_token_id=ids["image"], image_token_index=ids["image"], video_token_id=ids["video"],
        video_token_index=ids["video"], vision_start_token_id=ids["vision_start"],
        vision_end_token_id=ids["vision_end"],
    )  # fmt: skip
    return transformers.Qwen2_5OmniThinkerForConditionalGeneration(config)


def make_base(directory: Path, kind: str) -> None:
    tokenizer = tokens()
    torch.manual_seed(0)
    model = {"qwen2_audio": qwen2_audio, "omni": omni}[kind](tokenizer.convert_tokens_to_ids("<|AUDIO|>"))
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.normal_(0, SPREAD)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    transformers.WhisperFeatureExtractor(feature_size=80, chunk_length=SECONDS).save_pretrained(directory)


def some(rows: Sequence[Row], split: str, part: int, rng: random.Random) -> list[Row]:
    """One part of `part` of a split's rows, by chance; fewer where there are no more."""
    found = [row for row in rows if row.split == split]
    return rng.sample(found, min(len(found), ROWS[split] // part))


def pairs(rows: Sequence[Row], split: str, rng: random.Random) -> list[Row]:
    """Half of them of one speaker."""
    speakers: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if row.split == split:
            speakers[row.speaker].append(row)
    found = []
    for i in range(ROWS[split]):
        first = rng.choice(list(speakers))
        second = first if i % 2 else rng.choice([one for one in speakers if one != first])
        a, b = rng.choice(speakers[first]), rng.choice(speakers[second])
        found.append(replace(a, text="", extra={"audio_2": str(b.audio), "speaker_2": second}))
    return found


def make_rows(packs: Path, out: Path) -> None:
    rng = random.Random(0)
    digits, arabic, german, dutch = (
        read_manifest(packs / name / "manifest.csv").rows
        for name in ("digits_en", "commands_ar", "sentences_de", "sentences_nl")
    )
    spoken = [row for row in arabic if row.domain == "digits"]
    tasks = {
        "kws": [row for split in ROWS for row in some(digits, split, 1, rng)],
        "speaker_id": [row for split in ROWS for row in some(digits, split, 1, rng)],
        "speaker_ver": [row for split in ROWS for row in pairs(digits, split, rng)],
        "asr": [row for split in ROWS for row in some(spoken, split, 1, rng)],
        "langid": [
            replace(row, start=0.0, end=min(CUT_S, row.duration or CUT_S))
            for split in ROWS for pack in (digits, arabic, german, dutch) for row in some(pack, split, 4, rng)
        ],
    }  # fmt: skip
    little = [
        replace(row, extra={**row.extra, "task": task})
        for task, rows in tasks.items() for split, count in BASE_ROWS.items()
        for row in rng.sample([one for one in rows if one.split == split], count)
    ]  # fmt: skip
    for task, rows in (tasks | {"general": little}).items():
        write_manifest(rows, out / f"{task}.csv")
        print(f"{out / task}.csv: {len(rows)} rows")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--kind", choices=["qwen2_audio", "omni"], default="qwen2_audio")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    make_base(args.out / "base", args.kind)
    make_rows(args.data, args.out)


if __name__ == "__main__":
    main()
