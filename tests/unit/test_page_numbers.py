"""The numbers that pages tell of the code: each is what the code has."""

from __future__ import annotations

import math
import re
import tomllib
from pathlib import Path

import pytest
import yaml

from chorus import documents, files
from chorus.architectures.openai_whisper import dimensions, openai_names
from chorus.checkpoints import adapter_kinds, safetensors_header
from chorus.data import audio
from chorus.data.check import ERRORS, WARNINGS
from chorus.export.ctranslate2 import layout as ctranslate2_layout
from chorus.export.ctranslate2.exporter import SIDE_BYTES
from chorus.export.ctranslate2.writer import nbytes as ctranslate2_bytes
from chorus.export.ggml import layout
from chorus.merge.method import METHODS
from chorus.merge.recipes import parameters, schema
from chorus.models import speech_llm
from chorus.transcribe.backends import faster_whisper

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
MB = 1_000_000


def page(name: str) -> str:
    """A page's text, each run of white space one space."""
    return " ".join((ROOT / name).read_text(encoding="utf-8").split())


LIMITS = (
    f"| a recipe, settings | {files.MAX_RECIPE // MB} MB; {documents.MAX_NODES:,} values, {documents.MAX_DEPTH} deep",
    f"| {files.MAX_CONFIG // MB} MB, {files.MAX_DEPTH} deep |",
    f"| an index of shards | {files.MAX_INDEX // MB} MB |",
    f"| {safetensors_header.MAX_JSON_BYTES // MB} MB of names and numbers, {safetensors_header.MAX_TENSORS:,} tensors, "
    f"{safetensors_header.MAX_DIMENSIONS} dimensions, names of {safetensors_header.MAX_NAME:,} characters |",
    "| of a recipe: models, outputs, slices | "
    + ", ".join(f"{schema.LIMITS[what]:,}" for what in ("models", "outputs", "slices"))
    + " |",
    f"| a number in a recipe | {parameters.LARGEST:,.0f} |",
    f"| `tokenizer.json`, `vocab.json` | {files.MAX_TOKENIZER // MB} MB |",
    f"| the front matter of a model card | within the first {files.MAX_FRONT // MB} MB |",
    f"| a line of a table or of results | {files.MAX_LINE // MB} MB |",
)


def test_limits_are_the_constants():
    text = page("docs/cli.md")
    assert [line for line in LIMITS if line not in text] == []
    rows = text.partition("| file | limit | |---|---| ")[2]
    assert rows.count(" | |") + 1 == len(LIMITS), "a limit without a constant"


def test_sizes_of_merged_models_and_of_an_adapter_are_those_of_their_layouts():
    small = {
        "d_model": 768, "encoder_layers": 12, "decoder_layers": 12, "encoder_attention_heads": 12,
        "decoder_attention_heads": 12, "encoder_ffn_dim": 3072, "decoder_ffn_dim": 3072, "vocab_size": 51865,
        "num_mel_bins": 80, "max_source_positions": 1500, "max_target_positions": 448,
    }  # fmt: skip
    known = layout.shapes(dimensions(small))
    of_ggml = {name: layout.shape_of(name, known) for name in openai_names(12, 12)}
    sizes = {
        "adapter of rank 16 on queries and values, transformers": (12 + 2 * 12) * 2 * 16 * (768 + 768) * 4,
        "merged, CTranslate2 int8": ctranslate2_bytes(small, ctranslate2_layout.TYPES["int8"], "float16") + SIDE_BYTES,
        "merged, ggml q5_0": sum(
            layout.stored(name, shape, layout.TYPES["q5_0"]).nbytes(math.prod(shape)) for name, shape in of_ggml.items()
        ),
    }
    text = page("docs/one-adapter-a-customer.md")
    for what, nbytes in sizes.items():
        told = re.search(rf"\| {what} \| (\d+) MB \|", text)
        assert told, what
        assert abs(nbytes / MB - int(told[1])) < 1.0, (what, nbytes)


def test_kinds_of_adapters_are_counted():
    named = ("OFT", "LoHa", "IA3", "VeRA")
    assert {name.upper() for name in named} <= set(adapter_kinds.MERGED_BY_PEFT)
    more = len(adapter_kinds.MERGED_BY_PEFT) - len(named)
    assert f"({', '.join(named)} and {more} more)" in page("docs/adapters.md")


def test_published_recipes_are_counted():
    groups = yaml.safe_load((ROOT / "tests" / "reports" / "published_recipes.yml").read_text(encoding="utf-8"))
    answers = [one["then"] for group in groups.values() for one in group.values()]
    absent = sum("method of mergekit that Chorus does not have" in answer for answer in answers)
    text = page("docs/recipes.md")
    assert f"Of {len(answers)} published recipes" in text
    assert f"{answers.count('runs')} run as they are" in text
    assert f"{absent} ask for methods that are not here" in text


def test_a_kind_of_model_takes_so_many_lines():
    package = ROOT / "tests" / "packages" / "chorus_moonshine"
    first, second = (
        sum(bool(line.strip()) for line in (package / name).read_text().splitlines())
        for name in ("kind.py", "training.py")
    )
    assert f"2 files, {first} and {second} lines for Moonshine" in page("docs/extending.md")


def test_what_recordings_and_transcripts_are_bounded_by():
    lowest, highest = audio.LOWEST_HZ // 1000, audio.HIGHEST_HZ // MB
    assert audio.LONGEST_S == 2 * 3600
    assert f"Sample rates are from {lowest} kHz to {highest} MHz, and two hours are read" in page("docs/data.md")
    told = f"a Whisper's {faster_whisper.POSITIONS} positions less what stands before, {speech_llm.NEW_TOKENS} tokens"
    assert told in page("docs/evaluate.md")


@pytest.mark.parametrize("kind", [*ERRORS, *WARNINGS])
def test_what_check_finds_stands_in_the_tables(kind):
    tables = page("docs/data.md").partition("| errors | |")[2].partition("`split` keeps")[0]
    # two kinds of outliers, and of audio, texts and speakers, share a row
    words = set(re.findall(r"[\w']+", tables))
    assert {word.removesuffix("s") for word in kind.split()} <= {word.removesuffix("s") for word in words}


def test_the_changelog_names_every_method_and_the_lowest_versions():
    text = page("CHANGELOG.md")
    assert len(METHODS) == 24
    listed = text.partition("Twenty-four methods: ")[2].partition(" with a cache")[0]
    assert set(METHODS.names()) <= set(re.findall(r"\w+", listed))
    needed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [*needed["dependencies"], *(one for extra in needed["optional-dependencies"].values() for one in extra)]
    lowest = dict(line.split(">=") for line in lines if ">=" in line)
    told = re.findall(r"(\w+) ([\d.]+)", text.rpartition("(5.0 to train)")[2].partition("|")[2].partition(";")[0])
    assert len(told) == 6
    assert {name: version for name, version in told if lowest[name].split(",")[0] != version} == {}


def test_the_readme_and_the_page_of_measures_tell_the_same():
    readme, measured = (
        (ROOT / name).read_text(encoding="utf-8").splitlines() for name in ("README.md", "docs/measured.md")
    )
    begin = next(i for i, line in enumerate(readme) if line.startswith("| method | CPU s, Chorus"))
    end = next(i for i, line in enumerate(readme) if line.startswith("Subspace merges, adapters, training"))
    assert end - begin > 20
    assert [line for line in readme[begin:end] if line not in measured] == []


def test_the_readme_s_map_has_every_room():
    tree = (ROOT / "README.md").read_text(encoding="utf-8").partition("src/chorus/\n")[2].partition("```")[0]
    rooms = {place.name for place in (ROOT / "src" / "chorus").iterdir() if (place / "__init__.py").exists()}
    assert len(rooms) > 15
    assert rooms - set(re.findall(r"(\w+)/ ", tree)) == set()
