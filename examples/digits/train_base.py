"""Train the example's base model again, from scratch: `python train_base.py --tiktoken T --out DIR`.

A Whisper of two encoder layers and one decoder layer, width 64, trained on two speakers only, so that the other
speakers of the corpus are new domains to it: most of the time on windows of five seconds, at the end also on the
thirty that runtimes feed it. The vocabulary is that of multilingual Whisper (51865 tokens), rebuilt from OpenAI's
rank file `multilingual.tiktoken`. About forty minutes on one core.
"""

from __future__ import annotations

import argparse
import base64
import json
import tempfile
from pathlib import Path

import speech
import torch
from tokenizers import AddedToken
from transformers import (
    GenerationConfig,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperTokenizerFast,
)
from transformers.models.whisper.tokenization_whisper import LANGUAGES

from chorus.train.layers import load_train_config
from chorus.train.run import train

HERE = Path(__file__).parent
SPEAKERS = ("theo", "yweweler")
ALL = [3, 5, 30]  # seconds; the runtimes' thirty among cheaper ones


def byte_alphabet() -> dict[int, str]:
    """The printable stand-in that GPT-2's vocabulary uses for each byte."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    alphabet = {byte: chr(byte) for byte in printable}
    for byte in range(256):
        if byte not in alphabet:
            alphabet[byte] = chr(256 + len(alphabet) - len(printable))
    return alphabet


def read_ranks(path: Path) -> dict[bytes, int]:
    ranks = {}
    for line in path.read_text().splitlines():
        token, rank = line.split()
        ranks[base64.b64decode(token)] = int(rank)
    return ranks


def merges_of(ranks: dict[bytes, int]) -> list[tuple[bytes, bytes]]:
    """The pair that each longer token was merged from: replay the merges of lower rank on its bytes."""
    merges = []
    for token, rank in sorted(ranks.items(), key=lambda item: item[1]):
        parts = [bytes([byte]) for byte in token]
        while len(parts) > 2:
            candidates = [(ranks.get(parts[i] + parts[i + 1], rank), i) for i in range(len(parts) - 1)]
            best, i = min(candidates)
            if best >= rank:
                break
            parts[i : i + 2] = [parts[i] + parts[i + 1]]
        if len(parts) == 2:
            merges.append((parts[0], parts[1]))
    return merges


def whisper_tokenizer(tiktoken: Path) -> WhisperTokenizerFast:
    ranks, alphabet = read_ranks(tiktoken), byte_alphabet()
    printable = {token: "".join(alphabet[b] for b in token) for token in ranks}
    vocabulary = {printable[token]: rank for token, rank in ranks.items()}
    merges = [(printable[a], printable[b]) for a, b in merges_of(ranks)]
    specials = ["<|endoftext|>", "<|startoftranscript|>"]
    specials += [f"<|{code}|>" for code in list(LANGUAGES)[:99]]
    specials += ["<|translate|>", "<|transcribe|>", "<|startoflm|>", "<|startofprev|>", "<|nospeech|>"]
    specials += ["<|notimestamps|>"]
    tokenizer = WhisperTokenizerFast(vocab=vocabulary, merges=merges, unk_token="<|endoftext|>")
    tokenizer.add_tokens([AddedToken(t, special=True, normalized=False) for t in specials], special_tokens=True)
    tokenizer.add_special_tokens({"additional_special_tokens": specials})
    tokenizer.add_tokens([AddedToken(f"<|{i * 0.02:.2f}|>", normalized=False) for i in range(1501)])
    assert len(tokenizer) == 51865, len(tokenizer)
    assert tokenizer.convert_tokens_to_ids("<|startoftranscript|>") == 50258
    assert tokenizer.convert_tokens_to_ids("<|0.00|>") == 50364
    return tokenizer


def new_recogniser(tiktoken: Path, seed: int) -> speech.Recogniser:
    tokenizer = whisper_tokenizer(tiktoken)
    ids = tokenizer.convert_tokens_to_ids
    torch.manual_seed(seed)
    config = WhisperConfig(
        vocab_size=51865,
        num_mel_bins=80,
        d_model=64,
        encoder_layers=2,
        decoder_layers=1,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=256,
        decoder_ffn_dim=256,
        max_source_positions=1500,
        pad_token_id=50257,
        bos_token_id=50257,
        eos_token_id=50257,
        decoder_start_token_id=50258,
        suppress_tokens=None,
        begin_suppress_tokens=None,
        dropout=0.0,
    )
    model = WhisperForConditionalGeneration(config)
    model.generation_config = GenerationConfig(
        bos_token_id=50257,
        eos_token_id=50257,
        pad_token_id=50257,
        decoder_start_token_id=50258,
        max_length=448,
        is_multilingual=True,
        lang_to_id={f"<|{code}|>": ids(f"<|{code}|>") for code in list(LANGUAGES)[:99]},
        task_to_id={"transcribe": ids("<|transcribe|>"), "translate": ids("<|translate|>")},
        no_timestamps_token_id=ids("<|notimestamps|>"),
        prev_sot_token_id=ids("<|startofprev|>"),
        begin_suppress_tokens=[220, 50257],
        suppress_tokens=[ids("<|startofprev|>"), ids("<|startoflm|>"), ids("<|nospeech|>")],
        alignment_heads=[[0, 0], [0, 1], [0, 2], [0, 3]],
        return_timestamps=False,
        max_initial_timestamp_index=50,
    )
    extractor = WhisperFeatureExtractor(feature_size=80)
    return speech.Recogniser(model, tokenizer, extractor)


def phases(epochs: int) -> list[dict[str, object]]:
    """Most of the time on five seconds, at the end also on the runtimes' thirty, with zeros behind the speech."""
    late = {"epochs": max(1, epochs // 10), "learning_rate": 3e-4, "window_s": ALL}
    return [
        {"train": {"epochs": epochs, "learning_rate": 1.5e-3, "window_s": [5]}, "augment": {"zero_tail": 0.0}},
        {"train": late, "augment": {"zero_tail": 0.0}},
        {"train": late, "augment": {"zero_tail": 0.3}},
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiktoken", type=Path, required=True, help="OpenAI's multilingual.tiktoken")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        new_recogniser(args.tiktoken, args.seed).save(work / "0")
        for number, changes in enumerate(phases(args.epochs), 1):
            source = {"manifest": str(HERE / "data" / "manifest.csv"), "where": {"speaker": list(SPEAKERS)}}
            place = {"model": {"base": str(work / str(number - 1))}, "seed": args.seed}
            place |= {"output": str(work / str(number)), "logs": str(work / "runs" / str(number))}
            config = load_train_config(HERE / "specialist.yaml", {**place, **changes, "data": {"train": source}})
            result = train(config, quiet=False, label=f"phase {number} of 3")
            print(f"phase {number}: dev word error rate {result.best:.1f} percent")
        speech.Recogniser.load(work / "3").save(args.out, torch.float16)
    squeeze_tokenizer(args.out / "tokenizer.json")


def squeeze_tokenizer(path: Path) -> None:
    """Write the tokenizer without indentation: a third of the size."""
    path.write_text(json.dumps(json.loads(path.read_text()), ensure_ascii=False, separators=(",", ":")))


if __name__ == "__main__":
    main()
