"""Tiny language models of the real classes with trained tokenizers: Qwen's and Llama 3's rules, Llama 2's pieces."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from chorus.export.gguf.pre_tokenizers import KNOWN, WHOLE

TEXT = (
    "The quick brown fox jumps over the lazy dog, 123 4567 times; isn't it? Zürich, Москва, 東京 and Ελλάδα.\n"
    "She sells sea shells by the sea shore, they're hers. def main():\n    return [x for x in range(10)]\n"
) * 4
CHATML = (
    "{% if messages[0].role != 'system' %}{{ '<|im_start|>system\\nYou are Tiny.<|im_end|>\\n' }}{% endif %}"
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\\n\\n' + m.content "
    "+ '<|eot_id|>' }}{% endfor %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}"
)
SIZES = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 256, "vocab_size": 512,
}  # fmt: skip
SPECIALS = {
    "qwen": ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
    "llama3": ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
    "llama2": ["<unk>", "<s>", "</s>"],
}


def language_model(
    directory: Path, kind: str, seed: int = 0, *, dtype: torch.dtype = torch.float32, **config: Any
) -> Path:
    """A model directory: qwen2, qwen3, llama3 (byte-level tokens) or llama2 (SentencePiece's pieces)."""
    import transformers

    torch.manual_seed(seed)
    family = "qwen" if kind.startswith("qwen") else kind
    tokenizer = pieces() if family == "llama2" else bytes_of(family)
    first, end = {"qwen": (None, "<|im_end|>"), "llama3": ("<|begin_of_text|>", "<|eot_id|>")}.get(
        family, ("<s>", "</s>")
    )
    wrapped = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=first, eos_token=end)
    wrapped.chat_template = {"qwen": CHATML, "llama3": LLAMA3}.get(family)
    name = {"qwen2": "Qwen2", "qwen3": "Qwen3"}.get(kind, "Llama")
    extra = {"head_dim": 128} if kind == "qwen3" else {}
    made = getattr(transformers, f"{name}Config")(
        **{**SIZES, **extra, **config},
        bos_token_id=tokenizer.token_to_id(first or "<|endoftext|>"), eos_token_id=tokenizer.token_to_id(end),
    )  # fmt: skip
    model = getattr(transformers, f"{name}ForCausalLM")(made)
    with torch.no_grad():
        for parameter in model.parameters():  # norms of ones and biases of zeros would hide a mistake
            parameter.copy_(torch.randn_like(parameter) * 0.05 + (parameter.dim() == 1 and parameter.mean() > 0.5))
    model.to(dtype).save_pretrained(directory)
    wrapped.save_pretrained(directory)
    return directory


def bytes_of(family: str) -> Any:
    """A byte-level BPE of 400 tokens with the rules of Qwen2 or Llama 3, special tokens after them."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    name = {"qwen": "qwen2", "llama3": "llama-bpe"}[family]
    rule, *more = next(rules for rules, known in KNOWN.items() if known == name)
    tokenizer = Tokenizer(models.BPE(ignore_merges=WHOLE in more))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(rule), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(
        [TEXT], trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    )
    tokenizer.add_special_tokens(SPECIALS[family])
    tokenizer.add_tokens([AddedToken("<tool>", normalized=False, special=False)])
    if family == "llama3":
        start = SPECIALS[family][0]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{start} $A", special_tokens=[(start, tokenizer.token_to_id(start))]
        )
    return tokenizer


def pieces() -> Any:
    """A BPE as tokenizer.json has it of Llama 2: bytes to fall back to, and every pair that makes a piece."""
    from tokenizers import Tokenizer, decoders, models, normalizers, processors, trainers

    spaces = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    trained = Tokenizer(models.BPE())
    trained.normalizer = spaces
    trained.train_from_iterator([TEXT], trainers.BpeTrainer(vocab_size=180, show_progress=False))
    words = sorted(trained.get_vocab(), key=trained.get_vocab().__getitem__)
    letters = [word for word in words if len(word) == 1]
    joined = [word for word in words if len(word) > 1]
    joined += [word for word in ("th", "he", "ey", "the", "hey", "they") if word not in joined]  # two ways to join
    names = [*SPECIALS["llama2"], *(f"<0x{byte:02X}>" for byte in range(256)), *joined, *letters]
    ids = {name: i for i, name in enumerate(names)}
    pairs = [
        (word[:at], word[at:]) for word in joined for at in range(1, len(word)) if {word[:at], word[at:]} <= ids.keys()
    ]
    tokenizer = Tokenizer(models.BPE(vocab=ids, merges=pairs, byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    tokenizer.normalizer = spaces
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens(SPECIALS["llama2"])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return tokenizer


def model_proto(words: list[str], scores: list[float], *, kind: int = 2) -> bytes:
    """A SentencePiece model: pieces with score and type, and in the trainer's settings what kind it is."""
    import struct

    def sized(number: int, body: bytes) -> bytes:
        size, length = len(body), b""
        while True:
            size, part = size >> 7, size & 0x7F
            length += bytes([part | (0x80 if size else 0)])
            if not size:
                return bytes([number << 3 | 2]) + length + body

    types = {"<unk>": 2, "<s>": 3, "</s>": 3}
    made = b""
    for word, score in zip(words, scores, strict=True):
        number = types.get(word, 6 if word.startswith("<0x") else 1)
        made += sized(1, sized(1, word.encode()) + b"\x15" + struct.pack("<f", score) + bytes([0x18, number]))
    return made + sized(2, bytes([0x18, kind]))


def edited(directory: Path, name: str = "config.json", **changes: Any) -> Path:
    """The directory with keys of a JSON file changed."""
    place = directory / name
    place.write_text(json.dumps({**json.loads(place.read_text()), **changes}))
    return directory
