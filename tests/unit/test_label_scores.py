"""How likely labels are: one forward over their tree is what each label's own forward says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from chorus.checkpoints.open import open_model
from chorus.data.manifest import Row
from chorus.errors import UsageError
from chorus.models.batches import as_taken
from chorus.models.label_scores import tree_of
from chorus.models.loading import Origin, load_parts
from chorus.models.recogniser import LabelScorer, Speech
from chorus.models.registry import kind_of
from chorus.models.texts import plain_ids
from chorus.models.whisper import shorter_window
from chorus.transcribe.backends.choose import BACKENDS
from chorus.transcribe.backends.hearing import by_form
from chorus.transcribe.backends.protocol import Sound
from chorus.transcribe.decoding import Decoding
from chorus.transcribe.systems import open_system
from sounds import BASE, tiny, tone

LABELS = ("on", "one", "no", "nothing", "none of these", "yes", "42")


@pytest.fixture(scope="module", params=["qwen2_audio", "omni", "qwen3_asr", "voxtral"])
def recogniser(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    place = tiny(tmp_path_factory.mktemp("model") / request.param, request.param)
    model = open_model(place)
    kind = kind_of(model.config)
    assert kind is not None
    assert kind.recogniser is not None
    found = kind.recogniser(load_parts(kind, Origin(place), "float32"), None)
    # of small random weights every token is as likely as any other: nothing would be seen of a mistake
    with torch.no_grad():
        for parameter in found.parts.model.parameters():
            parameter.mul_(4)
    # one forward and many round otherwise: in float32 they differ by 1e-5 themselves
    found.parts.model.double()
    return found


def asked(count: int = 3) -> list[Speech]:
    """Questions and sounds of several lengths, so that a batch is padded."""
    return [
        Speech(lambda i=i: tone(0.4 + 0.5 * i, seed=i), lambda i=i: f"{i}", "Which word?" * (1 + i % 2))
        for i in range(count)
    ]


def one_by_one(recogniser: Any, speech: Speech, label: str) -> float:
    """The sum of the log-probabilities of a label's tokens and its end, by a forward of its own."""
    model = recogniser.parts.model
    inputs = as_taken(recogniser.inputs([speech]), model)
    tokens = [*plain_ids(recogniser.tokenizer, label), recogniser.end]
    ids = torch.cat([inputs["input_ids"], torch.tensor([tokens])], 1)
    whole = {**inputs, "input_ids": ids, "attention_mask": torch.ones_like(ids)}
    with torch.inference_mode():
        logits = model(**whole).logits[0].double()
    odds = torch.log_softmax(logits[-len(tokens) - 1 : -1], -1)
    return float(odds[torch.arange(len(tokens)), torch.tensor(tokens)].sum())


def test_each_label_is_as_likely_as_by_itself(recogniser: Any) -> None:
    speech = asked()
    assert isinstance(recogniser, LabelScorer)
    # rows of a batch may have labels of their own
    labels = [LABELS, LABELS[:2], ("a", *LABELS[3:])]
    with torch.inference_mode():
        found = recogniser.label_scores(recogniser.parts.model, recogniser.inputs(speech), labels)
    for one, own, scores in zip(speech, labels, found, strict=True):
        assert list(scores) == list(own)
        for label in own:
            value, count = scores[label]
            assert count == len(plain_ids(recogniser.tokenizer, label)) + 1
            assert value == pytest.approx(one_by_one(recogniser, one, label), abs=1e-5)
    spread = [value for value, _ in found[0].values()]
    assert max(spread) - min(spread) > 1, "labels that are all alike show nothing"


def test_the_gradient_of_each_label_is_that_of_its_own_forward(recogniser: Any) -> None:
    """Through the tree, the cache of the question and the sound that is heard once: calibration learns by it."""
    speech, model = asked(2), recogniser.parts.model
    inside = dict(model.named_parameters())
    watched = [inside[next(n for n in inside if part in n)] for part in ("audio_tower", "layers.0.mlp", "embed_tokens")]
    odds = recogniser.label_odds(model, recogniser.inputs(speech), [LABELS, LABELS[:3]])
    for i, one in enumerate(speech):
        inputs = as_taken(recogniser.inputs([one]), model)
        for label in LABELS[:3]:
            found = torch.autograd.grad(odds[i][label].sum(), watched, retain_graph=True)
            tokens = [*plain_ids(recogniser.tokenizer, label), recogniser.end]
            ids = torch.cat([inputs["input_ids"], torch.tensor([tokens])], 1)
            logits = model(**{**inputs, "input_ids": ids, "attention_mask": torch.ones_like(ids)}).logits[0]
            told = torch.log_softmax(logits[-len(tokens) - 1 : -1], -1)[torch.arange(len(tokens)), torch.tensor(tokens)]
            assert torch.allclose(odds[i][label], told.float(), atol=1e-5)
            for a, b in zip(found, torch.autograd.grad(told.sum(), watched), strict=True):
                size = float(b.abs().max())
                assert size > 0
                assert float((a - b).abs().max()) < 1e-3 * size


def test_what_another_label_begins_with_is_a_label(recogniser: Any) -> None:
    """`on` and `one`: the end token tells them apart, and the odds of both are of whole answers."""
    (scores,) = recogniser.label_scores(recogniser.parts.model, recogniser.inputs(asked(1)), [("on", "one")])
    assert scores["on"][0] != scores["one"][0]
    assert np.exp(scores["on"][0]) + np.exp(scores["one"][0]) < 1


@given(st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=5).map(tuple), min_size=1, max_size=9, unique=True))
@settings(max_examples=60, deadline=None)
def test_every_path_spells_its_label(labels: list[tuple[int, ...]]) -> None:
    tree = tree_of({str(one): one for one in labels}, 9)
    for one in labels:
        path = tree.paths[str(one)]
        assert [token for _, token in path] == [*one, 9]
        for (node, _), length in zip(path, range(len(one) + 1), strict=True):
            above = tree.ancestors(node)
            assert [tree.tokens[i] for i in reversed(above)] == list(one[:length])
            assert [tree.depths[i] for i in reversed(above)] == list(range(length))
    prefixes = {one[:length] for one in labels for length in range(1, len(one) + 1)}
    assert len(tree.tokens) == len(prefixes), "what labels share stands in it once"


def test_labels_that_no_tokens_tell_apart_are_refused() -> None:
    with pytest.raises(UsageError, match='"b" has the tokens of "a"'):
        tree_of({"a": [1, 2], "b": [1, 2]}, 0)
    with pytest.raises(UsageError, match="has no tokens"):
        tree_of({"": []}, 0)


def test_numbers_that_are_none_are_told(recogniser: Any) -> None:
    from chorus.models.finite import NotFiniteError

    head = recogniser.parts.model.get_output_embeddings().weight
    kept = head.detach().clone()
    with torch.no_grad():
        head[3] = float("nan")
    try:
        with torch.inference_mode(), pytest.raises(NotFiniteError):
            recogniser.label_scores(recogniser.parts.model, recogniser.inputs(asked(1)), [LABELS])
    finally:
        with torch.no_grad():
            head.copy_(kept)


# ---- Whisper ----


def test_a_whisper_s_labels_are_as_likely_as_by_themselves() -> None:
    """Two rows of two lengths and label sets, in a window of three seconds, behind language, task and a prompt."""
    system = open_system(BASE)
    rows = [
        Row(f"{i}.wav", language="en", text="one", extra={"choices": choices})
        for i, choices in enumerate(("on|one|no|seven eight", "zero|six"))
    ]
    sounds = [Sound(tone(0.5 + i, seed=i), row, f"sound {i}") for i, row in enumerate(rows)]
    decoder = BACKENDS.get("transformers")(system, Decoding(task="kws", window_s=(3,), prompt="digits"), "cpu")
    model, whisper = decoder.model.double(), decoder.whisper
    found = decoder.transcribe(sounds)
    settings = model.generation_config
    for sound, told in zip(sounds, found, strict=True):
        features = whisper.features.window([whisper.features(sound.audio)], 300).double()
        prefix = decoder._prefixes(["en"])[0]
        for label, (value, count) in told.scores.items():
            tokens = [*whisper.labels(label), int(settings.eos_token_id)]
            assert count == len(tokens)
            with torch.inference_mode(), shorter_window(model, 150):
                logits = model(input_features=features, decoder_input_ids=torch.tensor([[*prefix, *tokens]])).logits[0]
            odds = torch.log_softmax(logits[len(prefix) - 1 : -1].double(), -1)
            assert value == pytest.approx(float(odds[torch.arange(count), tokens].sum()), abs=1e-5)
    assert [sorted(one.scores) for one in found] == [["no", "on", "one", "seven eight"], ["six", "zero"]]
    free = BACKENDS.get("transformers")(system, Decoding(task="kws", window_s=(3,), labels="free"), "cpu")
    assert [one.scores for one in free.transcribe(sounds)] == [{}, {}]
    plain = BACKENDS.get("transformers")(system, Decoding(window_s=(3,)), "cpu")
    assert [one.scores for one in plain.transcribe(sounds)] == [{}, {}]


@pytest.mark.parametrize("kind", ["whisper", "qwen2_audio"])
@pytest.mark.parametrize("most", [None, 6])
def test_what_a_row_is_answered_does_not_depend_on_the_rows_beside_it(
    tmp_path: Path, kind: str, most: int | None
) -> None:
    """Rows with choices, long ones, and none: likelihoods vanished of the former, and texts had the longest's limit."""
    base = BASE if kind == "whisper" else tiny(tmp_path / kind, kind)
    long = "|".join(" ".join([word] * 30) for word in ("one", "nine"))
    extras = [{"choices": "on|one"}, {}, {"choices": long}, {"choices": "yes|no"}]
    rows = [
        Row(f"{i}.wav", language="en", text="one", extra={"instruction": "Which?", "answer": "on", **extra})
        for i, extra in enumerate(extras)
    ]
    sounds = [Sound(tone(0.4 + 0.1 * i, seed=i), row, f"sound {i}") for i, row in enumerate(rows)]
    asked = Decoding(task="custom", window_s=(1,), max_new_tokens=most)
    decoder = BACKENDS.get("transformers")(open_system(base), asked, "cpu")
    together = decoder.transcribe(sounds)
    alone = [decoder.transcribe([sound])[0] for sound in sounds]
    assert [(one.text, one.cut) for one in together] == [(one.text, one.cut) for one in alone]
    assert [list(one.scores) for one in together] == [
        ["on", "one"], [], long.split("|"), ["yes", "no"]
    ] == [list(one.scores) for one in alone]  # fmt: skip


@pytest.mark.parametrize(
    ("task", "extra", "most"),
    [
        ("asr", {}, None),
        ("custom", {"instruction": "?"}, 128),
        ("custom", {"instruction": "?", "choices": "a|b"}, 32),
        ("speech_qa", {"question": "?"}, 128),
        ("kws", {"choices": "a|" + "b" * 17}, 48),
    ],
)
def test_each_task_says_how_long_an_answer_may_be(task: str, extra: dict[str, str], most: int | None) -> None:
    row = Row("a.wav", language="en", extra=extra)
    assert list(by_form(Decoding(task=task), [row], list)) == [(bool(extra.get("choices")), most)]
    assert list(by_form(Decoding(task=task, max_new_tokens=5), [row], list)) == [(bool(extra.get("choices")), 5)]
