"""An experiment's file: short forms, variables, spellings, what is refused; from its domains to rows and trainings."""

from __future__ import annotations

from pathlib import Path

import pytest

from chorus.data.manifest import Row, write_manifest
from chorus.errors import DataError, RecipeError
from chorus.experiment.inputs import check_inputs
from chorus.experiment.load import load_experiment
from chorus.experiment.places import base_of, plain_template, recipe_path, reference_of
from chorus.experiment.rows import dev_sets, dev_sources, groups_of, held_out_sets, rows_of, source_of, write_divided
from chorus.experiment.schema import Experiment
from chorus.experiment.speech import speak
from chorus.experiment.steps import counts, curves_of, systems_of
from chorus.experiment.trainings import base_job, jobs_of
from chorus.search.grids import Setting
from chorus.search.recipes import recipe_of
from chorus.search.selection import Chosen
from sounds import BASE, corpus


def told(**more: object) -> dict[str, object]:
    return {"base": "b", "data": {"manifest": "m.csv"}, "domains": ["x", "y"], "methods": {"linear": {}}, **more}


# ---- reading ----


def test_short_forms_are_written_out() -> None:
    found = load_experiment(told(
        data={"manifest": "m.csv", "by": "speaker"}, domains=["ana", 7], tests={"out-of-domain": ["eva"]},
        methods=["linear", "karcher"],
    ))  # fmt: skip
    assert found.base.model == "b"
    assert {n: d.where for n, d in found.domains.items()} == {"ana": {"speaker": "ana"}, "7": {"speaker": "7"}}
    assert found.tests.out_of_domain["eva"].where == {"speaker": "eva"}
    assert found.methods == {"linear": {}, "karcher": {}}
    assert load_experiment(told(methods={"linear": None})).methods == {"linear": {}}


def test_the_environments_variables_are_put_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HERE", "/data")
    found = load_experiment(told(data={"manifest": "${HERE}/m.csv", "columns": {"text": "${HERE}"}}))
    assert found.data.manifest == "/data/m.csv"
    assert found.data.columns == {"text": "/data"}
    monkeypatch.delenv("HERE")
    with pytest.raises(RecipeError, match="no HERE") as caught:
        load_experiment(told(output="${HERE}"))
    assert caught.value.hint == "export HERE=..."


def test_either_spelling_of_normaliser_is_taken_but_not_both() -> None:
    assert load_experiment(told(normalizer="basic")).normaliser == "basic"
    assert load_experiment(told(normaliser="basic")) == load_experiment(told(normalizer="basic"))
    with pytest.raises(RecipeError, match="normali"):
        load_experiment(told(normaliser="basic", normalizer="raw"))
    with pytest.raises(RecipeError, match="one of"):
        load_experiment(told(normalizer="basics"))


def test_what_the_experiment_decides_is_refused_in_trainings() -> None:
    train = {"seed": 3, "model": {"base": "another", "freeze": ["encoder"]}}
    with pytest.raises(RecipeError) as caught:
        load_experiment(told(train=train, joint={"output": "o"}))
    told_ = str(caught.value)
    for piece in ("train.seed", "train.model.base", "joint.output"):
        assert f"{piece}: set by the experiment" in told_
    assert load_experiment(told(train={"model": {"freeze": ["encoder"]}})).train == {"model": {"freeze": ["encoder"]}}
    with pytest.raises(RecipeError, match="train"):
        load_experiment(told(train={"model": "a text"}))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"curves": {"ties": {"density": [0.1]}}}, "not among the methods"),
        ({"curves": {"linear": {}}}, "one parameter with its values"),
        ({"data": {"split": {"dev": 0.2}}}, "none is named"),
        ({"domains": {"x": {}, ".y": {}}}, "names a folder"),
        ({"domains": {"x": {}, "joint": {}}}, "joint: is the name of a model"),
        ({"domains": {"x": {}, "linear": {}}}, "linear: is the name of a model"),
        ({"seeds": []}, "seeds"),
        ({"conditions": ["nois:10db"]}, "conditions: "),
    ],
)
def test_what_is_refused(more: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load_experiment(told(**more))


# ---- places, steps, trainings ----


def test_an_adapter_stands_on_its_base(tmp_path: Path) -> None:
    found = load_experiment(told(output=str(tmp_path)))
    directory = tmp_path / "models" / "seed-0" / "x"
    assert reference_of(found, "x", 0) == str(directory)
    directory.mkdir(parents=True)
    (directory / "adapter_config.json").write_text("{}")
    assert reference_of(found, "x", 0) == f"b+{directory}"
    assert reference_of(found, "base", 0) == "b"
    assert plain_template(found, 0) == {
        "base_model": "b", "models": [{"model": f"b+{directory}"}, {"model": str(tmp_path / "models/seed-0/y")}]
    }  # fmt: skip
    assert recipe_path(found, 2, "ties") == tmp_path / "recipes" / "seed-2" / "ties.yml"


def test_a_base_that_is_trained_first(tmp_path: Path) -> None:
    base = {"model": "b", "where": {"domain": "z"}, "train": {"train": {"epochs": 9}}}
    found = load_experiment(told(base=base, output=str(tmp_path), seeds=[4, 5], train={"train": {"batch_size": 2}}))
    assert base_of(found) == str(tmp_path / "models" / "base")
    job = base_job(found)
    assert job is not None
    config = job.config
    assert (config.model.base, config.seed, config.train.epochs, config.train.batch_size) == ("b", 4, 9, 2)
    assert [(s.where, s.domain, s.split) for s in config.data.dev or []] == [({"domain": "z"}, "", "dev")]
    assert {j.config.model.base for j in jobs_of(found)} == {base_of(found)}
    assert [j.name for j in jobs_of(found)] == [f"{n}, seed {s}" for s in (4, 5) for n in ("x", "y", "joint")]
    assert base_job(load_experiment(told())) is None


def test_steps_are_counted_by_kind() -> None:
    found = load_experiment(told(
        seeds=[0, 1], methods={"linear": {}, "ties": {"density": [0.2, 0.5], "lambda": [0.5, 1.0]}},
        curves={"ties": {"density": [0.1, 0.2, 0.3]}},
    ))  # fmt: skip
    assert systems_of(found) == ["base", "x", "y", "joint"]
    assert counts(found) == {
        "train": 2 * 3, "calibrate": 0, "dev": 2 * (4 + 5), "test": 2 * (4 + 2 + 3), "ranks": 3 + 2,
        "overfitting": 0, "report": 1,
    }  # fmt: skip
    alone = load_experiment(told(joint=False))
    assert counts(alone)["train"] == 2
    assert "joint" not in systems_of(alone)


def test_a_curve_varies_one_parameter_of_what_was_chosen() -> None:
    found = load_experiment(told(
        methods={"mine": {"method": "multislerp", "base": True}, "ties": {"density": [0.2, 0.5], "lambda": 1.3}},
        curves={"ties": {"density": [0.1, 0.9]}, "mine": {"weight": [1.0]}},
    ))  # fmt: skip
    chosen = {"ties": Chosen(Setting("ties", "ties", {"density": 0.5, "lambda": 1.3}), 1.0),
              "mine": Chosen(Setting("mine", "multislerp", {}, with_base=True), 2.0)}  # fmt: skip
    curves = curves_of(found, chosen)
    assert curves["ties"].parameter == "density"
    assert [s.parameters for s in curves["ties"].settings] == [{"density": d, "lambda": 1.3} for d in (0.1, 0.9)]
    (point,) = curves["mine"].settings
    assert recipe_of({"base_model": "b", "models": []}, point)["base_model"] == "b"


# ---- rows ----


@pytest.fixture
def experiment(tmp_path: Path) -> Experiment:
    """Tones of two domains d0 and d1: eight of train, four of dev."""
    manifest, _ = corpus(tmp_path / "speech", 12)
    return load_experiment(told(
        output=str(tmp_path / "out"), data={"manifest": str(manifest), "language": "pt"}, domains=["d0", "d1"],
    ))  # fmt: skip


def test_rows_are_of_their_domain_and_split(experiment: Experiment) -> None:
    domain = experiment.domains["d0"]
    assert [len(rows_of(experiment, "d0", domain, split)) for split in ("train", "dev", "test")] == [4, 2, 0]
    assert len(rows_of(experiment, "d0", domain.model_copy(update={"split": "all"}), "test")) == 6
    assert {r.domain for r in rows_of(experiment, "d0", domain, "dev")} == {"d0"}
    with pytest.raises(DataError, match="d0: no test rows"):
        held_out_sets(experiment)
    assert len(dev_sets(experiment)["asr"].utterances) == 4


def test_a_manifest_of_ones_own_is_dev_or_test_as_a_whole(experiment: Experiment, tmp_path: Path) -> None:
    rows = [Row(f"speech/audio/{i:03d}.flac", "one", "en", root=tmp_path) for i in range(3)]
    own = str(write_manifest(rows, tmp_path / "own.csv"))
    domain = experiment.domains["d0"].model_copy(update={"where": {}, "dev": own, "test": own})
    for split in ("dev", "test"):
        assert len(rows_of(experiment, "d0", domain, split)) == 3
    sources = dev_sources(experiment, {"d0": domain, "d1": experiment.domains["d1"]})
    assert sources[0]["manifest"] == own
    assert "split" not in sources[0]
    assert sources[1]["split"] == "dev"


def test_a_source_takes_the_experiments_columns_unless_the_domain_has_its_own(experiment: Experiment) -> None:
    shared = source_of(experiment, "d0", experiment.domains["d0"])
    assert (shared["domain"], shared["language"], shared["where"]) == ("d0", "pt", {"domain": "d0"})
    assert "audio_dir" not in shared
    own = experiment.domains["d0"].model_copy(update={"language": "en", "audio_dir": "a", "columns": {"text": "t"}})
    found = source_of(experiment, "d0", own)
    assert (found["language"], found["audio_dir"], found["columns"]) == ("en", "a", {"text": "t"})


def test_a_division_of_ones_own_is_written_once(experiment: Experiment) -> None:
    split = load_experiment({
        **told(domains=["d0", "d1"]), "output": experiment.output,
        "data": {"manifest": experiment.data.manifest, "split": {"by": "row", "dev": 0.25, "test": 0.25}},
    })  # fmt: skip
    write_divided(split)
    place = split.output_dir / "split" / "manifest.csv"
    before = place.stat().st_mtime_ns
    write_divided(split)
    assert place.stat().st_mtime_ns == before
    assert len(held_out_sets(split)["asr"].utterances) == 3
    assert groups_of(split) == {"d0": "in-domain", "d1": "in-domain"}


def test_speech_is_spoken_once_for_a_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spoken: list[str] = []

    def synthesise(recipe: str, place: Path) -> None:
        spoken.append(recipe)
        place.mkdir(parents=True, exist_ok=True)

    monkeypatch.setattr("chorus.data.synth.synthesise", synthesise)
    recipe, notes = tmp_path / "r.yml", []
    recipe.write_text("a")
    for text in ("a", "a", "b"):
        recipe.write_text(text)
        speak(str(recipe), tmp_path / "synth", notes.append)
    assert spoken == [str(recipe)] * 2
    assert notes == [f"speaking {recipe}"] * 2


# ---- the files and the base that it names ----


def wrong(**given: object) -> list[str]:
    try:
        check_inputs(load_experiment(told(**given)))
    except RecipeError as error:
        return error.problems
    return []


def test_domains_base_and_languages_are_held_against_the_manifest(tmp_path: Path) -> None:
    rows = [
        Row(f"{domain}{split}.wav", "x", language, domain=domain, split=split)
        for domain, language in (("red", "pt-BR"), ("blue", "Portuguese")) for split in ("train", "dev", "test")
    ]  # fmt: skip
    manifest = str(write_manifest([*rows, Row("g.wav", "x", "xx", domain="green", split="train")], tmp_path / "m.csv"))
    here = {"data": {"manifest": manifest}, "base": str(BASE)}
    assert wrong(**here, domains=["red", "blue"]) == []
    assert wrong(**here, domains=["red", "bleu"]) == [
        f'domains.bleu: no {split} rows (domain bleu; did you mean "blue"?)' for split in ("train", "dev", "test")
    ]
    assert wrong(**here, domains=["red", "green"]) == [
        "domains.green: no dev rows", "domains.green: no test rows",
        f"base.model: {BASE}: its tokenizer does not know the languages of rows: xx",
    ]  # fmt: skip
    assert wrong(**{**here, "base": f"{tmp_path}/none"}, domains=["red", "blue"]) == [
        f"base.model: {tmp_path}/none: no such directory"
    ]
    assert wrong(**{**here, "base": "org/model"}, domains=["red", "blue"]) == []
    (tmp_path / "bad.csv").write_text("path,text\na.wav,one,two\n")
    assert wrong(**here, domains={"red": {"where": {"domain": "red"}}, "b": {"manifest": f"{tmp_path}/bad.csv"}}) == [
        f"domains.b: {tmp_path}/bad.csv: line 2: 3 fields, the header has 2 (a text with a comma stands in quotes)"
    ]


def test_rows_without_a_language_are_told_before_a_training(tmp_path: Path) -> None:
    rows = [Row(f"{d}{s}.wav", "x", domain=d, split=s) for d in "xy" for s in ("train", "dev", "test")]
    manifest = str(write_manifest(rows, tmp_path / "m.csv"))
    assert wrong(base=str(BASE), data={"manifest": manifest}) == [
        "data.language: rows name no language, and the base needs one"
    ]
    assert wrong(base=str(BASE), data={"manifest": manifest, "language": "sv-SE"}) == []
    assert wrong(base=str(BASE), data={"manifest": f"{tmp_path}/later.csv"}) == []


def test_a_manifest_that_comes_later_passes_beside_a_split_of_another(tmp_path: Path) -> None:
    rows = [Row(f"{i}.wav", "x", "en", speaker=f"s{i}", domain="xy"[i % 2]) for i in range(40)]
    data = {"manifest": str(write_manifest(rows, tmp_path / "m.csv")), "split": {"dev": 0.2, "test": 0.2}}
    later = {"z": {"manifest": f"{tmp_path}/later.csv"}, "x": {"where": {"domain": "x"}, "test": f"{tmp_path}/too.csv"}}
    for domains in (["x", "y"], later):
        assert wrong(base=str(BASE), data=data, domains=domains) == []
    assert wrong(base=str(BASE), data=data, domains=["x", "w"])[0].startswith("domains.w: no train rows")
