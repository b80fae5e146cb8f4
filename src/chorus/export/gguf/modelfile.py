"""Ollama's Modelfile: where the model is, how a chat is written, where an answer ends.

A chat template is Jinja in the model and Go's in Ollama. It is translated only where the model's own, rendered, is one
of the two formats below to the letter; every other is left to Ollama, which reads the one in the file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import NoReturn

from chorus.checkpoints.beside import beside
from chorus.checkpoints.model import Model
from chorus.export.gguf.tokens import CONTROL, Words
from chorus.files import read_json
from chorus.plain import JsonMap

Messages = list[dict[str, str]]


@dataclass(frozen=True)
class ChatFormat:
    """A way to write a chat. `message` writes one, `begin` what the answer follows, `stop` ends it."""

    message: Callable[[str, str], str]
    begin: str
    template: str
    stop: tuple[str, ...]
    first: str = ""

    def written(self, messages: Messages) -> str:
        return self.first + "".join(self.message(m["role"], m["content"]) for m in messages) + self.begin


CHATML = ChatFormat(
    lambda role, text: f"<|im_start|>{role}\n{text}<|im_end|>\n",
    "<|im_start|>assistant\n",
    "{{- range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n{{ end }}<|im_start|>assistant\n",
    ("<|im_start|>", "<|im_end|>"),
)
LLAMA3 = ChatFormat(
    lambda role, text: f"<|start_header_id|>{role}<|end_header_id|>\n\n{text}<|eot_id|>",
    "<|start_header_id|>assistant<|end_header_id|>\n\n",
    "{{- range .Messages }}<|start_header_id|>{{ .Role }}<|end_header_id|>\n\n{{ .Content }}<|eot_id|>{{ end }}"
    "<|start_header_id|>assistant<|end_header_id|>\n\n",
    ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
)
TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "One?"},
    {"role": "assistant", "content": "Two."},
    {"role": "user", "content": "Three?"},
]


FIRST = "# chorus export; ollama create NAME -f "  # so that --overwrite knows its own


def for_model(model: Model, words: Words) -> str:
    """Of a model: the template and the system's usual words where they are known, and what ends an answer."""
    found, system = known_format(words)
    lines = [f"{FIRST}Modelfile", "FROM ./{file}"]
    if found is not None:
        lines.append(f'TEMPLATE """{found.template}"""')
        lines += [f'SYSTEM """{system}"""'] if system else []
    # the file has one end of a text; generation settings may name more
    stops = dict.fromkeys([*(found.stop if found is not None else ()), *_ends(model, words)])
    lines += [f'PARAMETER stop "{stop}"' for stop in stops if '"' not in stop and "\n" not in stop]
    return "\n".join(lines) + "\n"


def for_adapter(base: str) -> str:
    """Of an adapter, on the base's own file."""
    return (
        f"{FIRST}Modelfile\n# the base's file: chorus export {base} --to gguf -o {base}.gguf\n"
        f"FROM ./{base}.gguf\nADAPTER ./{{file}}\n"
    )


def known_format(words: Words) -> tuple[ChatFormat | None, str]:
    """The format that the chat template writes, and what it says for the system where nobody does; None of others."""
    template = words.templates.get("default")
    if not template:
        return None, ""
    bos = words.tokens[words.special["bos"]] if "bos" in words.special else ""
    for one in (CHATML, LLAMA3):
        # llama.cpp puts the first token before a chat by itself
        if _rendered(template, TALK, words).removeprefix(bos) == one.written(TALK):
            bare = _rendered(template, TALK[1:2], words).removeprefix(bos)
            return one, _system(one, bare)
    return None, ""


def _system(one: ChatFormat, bare: str) -> str:
    """What a template puts in the system's place where a chat has none."""
    before, after = one.message("system", "\0").split("\0")
    # asked with a question alone: what stands before it nobody has written
    rest = one.written(TALK[1:2])
    if bare.startswith(before) and bare.endswith(after + rest) and '"""' not in bare:
        return bare.removeprefix(before).removesuffix(after + rest)
    return ""


def _rendered(template: str, messages: Messages, words: Words) -> str:
    """A chat as the model's template writes it, rendered as transformers does; empty where it cannot be."""
    if find_spec("jinja2") is None:
        return ""
    from jinja2 import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def refuse(message: str) -> NoReturn:
        raise TemplateError(message)

    # a template is somebody else's program: in the sandbox that transformers runs it in
    world = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
    names: Mapping[str, str] = {f"{role}_token": words.tokens[i] for role, i in words.special.items()}
    world.globals["raise_exception"] = refuse
    world.globals["strftime_now"] = lambda form: ""  # a template that tells the date writes no format to the letter
    try:
        return world.from_string(template).render(messages=messages, add_generation_prompt=True, **names)
    except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError):
        return ""


def _ends(model: Model, words: Words) -> list[str]:
    """The tokens that end an answer, by the generation settings and the tokenizer."""
    given: JsonMap = model.generation or {}
    files = beside(model).carried
    if not given and "generation_config.json" in files:
        given = read_json(files["generation_config.json"])
    ids = given.get("eos_token_id")
    ids = ids if isinstance(ids, list) else [ids]
    every = [*ids, words.special.get("eos")]
    known = [i for i in every if isinstance(i, int) and 0 <= i < len(words.tokens)]
    return [words.tokens[i] for i in known if words.types[i] == CONTROL]
