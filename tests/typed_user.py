"""What a user's type checker sees of every public name: never Any. Run by mypy (`make lint`), never by Python."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, assert_type

import torch

import chorus
from chorus.analyse.cka import StateAnalysis
from chorus.analyse.coefficients import CoefficientAnalysis
from chorus.analyse.disentanglement import Disentanglement
from chorus.analyse.facts import WeightAnalysis
from chorus.analyse.interference_facts import Interference
from chorus.analyse.leave_out import LeaveOneOut
from chorus.analyse.overfitting import OverfittingAnalysis
from chorus.analyse.path import PathAnalysis
from chorus.calibrate.run import Calibrated
from chorus.checkpoints.adapter_report import AdapterResult
from chorus.checkpoints.lazy_tensor import LazyTensor
from chorus.continual.run import Continued
from chorus.evaluate.comparison import Comparison
from chorus.evaluate.gate import Check
from chorus.evaluate.results import Evaluation
from chorus.experiment.schema import Experiment
from chorus.experiment.steps import Outcome
from chorus.export.api import Exported
from chorus.extract.task_vector import TaskVectorResult
from chorus.merge.recipes.loading import LoadedRecipe
from chorus.merge.runs.engine import Result
from chorus.train.config import TrainConfig
from chorus.train.facts import Trained
from chorus.transcribe.listening import Transcription
from chorus.verify.verdict import Verification


def merges() -> None:
    options = assert_type(chorus.Options(jobs=2, device="cpu"), chorus.Options)
    recipe = assert_type(chorus.load_recipe("recipe.yml"), LoadedRecipe)
    plan = assert_type(chorus.plan(recipe, options), chorus.Plan)
    assert_type(plan["model.norm.weight"], LazyTensor)
    assert_type(plan["model.norm.weight"].read(), torch.Tensor)
    assert_type(chorus.merge(plan, "merged"), Result)
    assert_type(chorus.merge_into_adapter(plan, "adapter", ranks=chorus.RankRule(energy=0.9)), AdapterResult)


def models() -> None:
    model = assert_type(chorus.open_model("org/name", chorus.OpenOptions(offline=True)), chorus.Model)
    assert_type(chorus.apply(model, ["adapter"], "applied", weights=0.5), Result)
    assert_type(model.checkpoint["x"].shape, tuple[int, ...])
    selection = assert_type(chorus.Selection(), chorus.Selection)
    assert_type(chorus.extract_lora(model, "base", "adapter", selection=selection), AdapterResult)
    assert_type(chorus.extract_task_vector(model, "base", "vector"), TaskVectorResult)


def measures() -> None:
    decoding = assert_type(chorus.Decoding(beam=5), chorus.Decoding)
    one = assert_type(chorus.evaluate("org/name", "test.csv", decoding=decoding), Evaluation)
    assert_type(chorus.compare([one, one]), Comparison)
    assert_type(chorus.gate(one, bounds={"accuracy": 90.0}), list[Check])
    changed = assert_type(chorus.analyse_weights(["tuned"], "base", merges={"m": "merge.yml"}), WeightAnalysis)
    assert_type(chorus.write_analysis(changed, "analysis"), Path)
    matrix = assert_type(chorus.analyse_interference([one], specialists={"radio": "radio"}), Interference)
    assert_type(chorus.write_analysis(matrix, "interference"), Path)
    heard = assert_type(chorus.AnalysedRows(["dev.csv"]), chorus.AnalysedRows)
    assert_type(chorus.analyse_path(["tuned"], "base", heard), PathAnalysis)
    assert_type(chorus.analyse_cka(["tuned"], "base", ["dev.csv"]), StateAnalysis)
    assert_type(chorus.analyse_coefficients("recipe.yml"), CoefficientAnalysis)
    assert_type(chorus.analyse_leave_one_out("recipe.yml", ["dev.csv"]), LeaveOneOut)
    assert_type(chorus.analyse_disentanglement(["a", "b"], "base", ["dev.csv"]), Disentanglement)
    asked = assert_type(chorus.EvaluatedRows(["dev.csv"]), chorus.EvaluatedRows)
    grid = assert_type(chorus.RankAndWeights([4], [1.0]), chorus.RankAndWeights)
    assert_type(chorus.analyse_overfitting(["tuned"], "base", asked, grid=grid), OverfittingAnalysis)


def hears() -> None:
    heard = assert_type(chorus.transcribe("org/name", ["a.mp3"], words=True, backend="auto"), list[Transcription])
    assert_type(heard[0].segments[0].words[0].start, float)


def ships() -> None:
    settings = chorus.ExportOptions(trim_vocabulary=True)
    assert_type(chorus.export("org/name", "ggml-name.bin", "ggml", types="q5_0", settings=settings), Exported)
    wanted = chorus.VerifyOptions(level=1)
    assert_type(chorus.verify("ggml-name.bin", "org/name", settings=wanted), Verification)
    assert_type(chorus.import_model("ggml-name.bin", "name"), Exported)
    assert_type(chorus.upload("name", chorus.Upload("org/name", private=True)), str)


def calibrates() -> None:
    settings = assert_type(chorus.Calibration(granularity="task"), chorus.Calibration)
    assert_type(chorus.calibrate("recipe.yml", ["train.csv"], ["dev.csv"], "calibrated", settings), Calibrated)


def goes_on() -> None:
    asked = chorus.Continuing(method="weighted", weight=[0.5])
    found = chorus.continual("one", "name", "two", asked, tests=["name=test.csv"], measuring=chorus.Measuring(limit=9))
    assert_type(found, Continued)
    assert_type(found.facts.shares(), dict[str, float] | None)


def trains() -> None:
    config = assert_type(chorus.load_train_config("train.yml"), TrainConfig)
    assert_type(chorus.train(config), Trained)
    assert_type(chorus.load_experiment("experiment.yml"), Experiment)
    assert_type(chorus.experiment("experiment.yml"), Outcome)


@chorus.method("mine", summary="a mean", paper="none", space="weights", linear=True)
def mine(
    tensors: Sequence[torch.Tensor],
    /,
    *,
    weight: Annotated[chorus.PerModel[float], chorus.Between(0, 1), "share of each"] = chorus.each(1.0),
) -> torch.Tensor:
    assert_type(weight, chorus.PerModel[float])
    assert_type(weight[0], float)
    return tensors[0]


def errors() -> None:
    assert_type(chorus.__version__, str)
    try:
        assert_type(mine([torch.zeros(1)]), torch.Tensor)
    except chorus.ChorusError as error:
        assert_type(error.exit_code, int)
        assert_type(error.hint, str)
