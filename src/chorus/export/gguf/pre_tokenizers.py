"""What cuts a text before its tokens, by llama.cpp's names: known by what tokenizer.json says that it does.

llama.cpp has each of them as code and knows it by the name that stands in `tokenizer.ggml.pre`; under a wrong name a
model reads other tokens than it was trained on. Its converter goes by the tokens of one text, which a tokenizer with
added tokens fails; here the rules themselves are compared. The expressions are facts of llama-vocab.cpp.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from chorus.errors import CheckpointError
from chorus.plain import JsonMap

WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
GPT2 = "ByteLevel's own"
WHOLE = "words that are tokens as they are"  # ignore_merges: whether merges would make them or not
KNOWN: Mapping[tuple[str, ...], str] = {
    (WORDS + r"\p{N}" + REST,): "qwen2",
    (WORDS + r"\p{N}{1,3}" + REST, WHOLE): "llama-bpe",
    (WORDS + r"\p{N}{1,3}" + REST,): "smaug-bpe",
    (GPT2,): "gpt-2",
    ("each digit", GPT2): "smollm",
}


def recognised(document: JsonMap) -> str:
    """llama.cpp's name of a byte-level tokenizer's rules; `CheckpointError` where they are none that is known here."""
    model = document.get("model")
    whole = isinstance(model, dict) and model.get("ignore_merges") is True
    rules = (*_rules(document.get("pre_tokenizer")), *([WHOLE] if whole else []))
    # compared as they stand: rules that look alike cut numbers, or other scripts, otherwise
    if rules in KNOWN:
        return KNOWN[rules]
    told = "; ".join(rules)[:160] or "nothing"
    raise CheckpointError(
        f"its texts are cut by rules that are none of {', '.join(KNOWN.values())} ({told})",
        "--pre-tokenizer NAME, if llama.cpp has these rules under another name (llama-vocab.cpp lists them)",
    )


def _rules(given: object) -> Iterator[str]:
    if not isinstance(given, dict):
        return
    kind, pattern = given.get("type"), given.get("pattern")
    if kind == "Sequence":
        for one in given.get("pretokenizers") or []:
            yield from _rules(one)
    elif kind == "Split" and isinstance(pattern, dict) and given.get("behavior") == "Isolated":
        yield str(pattern.get("Regex", pattern.get("String"))) + (" inverted" if given.get("invert") else "")
    elif kind == "Digits" and given.get("individual_digits"):
        yield "each digit"
    elif kind == "ByteLevel":
        # llama.cpp adds none to byte-level tokens, so that no known rules have this one
        if given.get("add_prefix_space"):
            yield "a space before the text"
        if given.get("use_regex", True):
            yield GPT2
    else:
        yield str(kind)
