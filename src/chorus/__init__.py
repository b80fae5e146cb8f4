"""Chorus: one speech or language model out of many fine-tuned ones, measured and shipped.

    import chorus

    plan = chorus.plan("recipe.yml")      # every mistake at once, no weight read
    chorus.merge(plan, "merged")          # streams; resumes; same bytes every time
    plan["model.encoder.conv1.weight"]    # a plan is a checkpoint too

Names are loaded when first used: importing chorus imports neither torch nor transformers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from chorus._version import __version__ as __version__

if TYPE_CHECKING:  # the public names, listed once: type checkers read this block, and so does `_homes` at run time
    from chorus.analyse.cka import analyse_cka as analyse_cka
    from chorus.analyse.coefficients import analyse_coefficients as analyse_coefficients
    from chorus.analyse.disentanglement import analyse_disentanglement as analyse_disentanglement
    from chorus.analyse.evaluated import EvaluatedRows as EvaluatedRows
    from chorus.analyse.interference import analyse_interference as analyse_interference
    from chorus.analyse.leave_out import analyse_leave_one_out as analyse_leave_one_out
    from chorus.analyse.live import AnalysedRows as AnalysedRows
    from chorus.analyse.overfitting import RankAndWeights as RankAndWeights
    from chorus.analyse.overfitting import analyse_overfitting as analyse_overfitting
    from chorus.analyse.path import analyse_path as analyse_path
    from chorus.analyse.weights import analyse_weights as analyse_weights
    from chorus.analyse.write import write_analysis as write_analysis
    from chorus.calibrate.run import calibrate as calibrate
    from chorus.calibrate.settings import Calibration as Calibration
    from chorus.checkpoints.model import Model as Model
    from chorus.checkpoints.model import OpenOptions as OpenOptions
    from chorus.checkpoints.open import open_model as open_model
    from chorus.continual.run import continual as continual
    from chorus.continual.sets import Measuring as Measuring
    from chorus.continual.settings import Continuing as Continuing
    from chorus.errors import ChorusError as ChorusError
    from chorus.evaluate.compare import compare as compare
    from chorus.evaluate.gate import gate as gate
    from chorus.evaluate.run import evaluate as evaluate
    from chorus.experiment.load import load_experiment as load_experiment
    from chorus.experiment.run import experiment as experiment
    from chorus.export.api import export as export
    from chorus.export.hf.upload import Upload as Upload
    from chorus.export.hf.upload import upload as upload
    from chorus.export.imported import import_model as import_model
    from chorus.export.protocol import ExportOptions as ExportOptions
    from chorus.extract.lora import extract_lora as extract_lora
    from chorus.extract.pair import Selection as Selection
    from chorus.extract.task_vector import extract_task_vector as extract_task_vector
    from chorus.linalg.ranks import RankRule as RankRule
    from chorus.merge.api import apply as apply
    from chorus.merge.api import merge as merge
    from chorus.merge.api import merge_into_adapter as merge_into_adapter
    from chorus.merge.method import Between as Between
    from chorus.merge.method import PerModel as PerModel
    from chorus.merge.method import each as each
    from chorus.merge.method import method as method
    from chorus.merge.options import Options as Options
    from chorus.merge.plan import Plan as Plan
    from chorus.merge.planning.planner import plan as plan
    from chorus.merge.recipes.loading import load_recipe as load_recipe
    from chorus.train.layers import load_train_config as load_train_config
    from chorus.train.run import train as train
    from chorus.transcribe.api import transcribe as transcribe
    from chorus.transcribe.decoding import Decoding as Decoding
    from chorus.verify.api import verify as verify
    from chorus.verify.options import VerifyOptions as VerifyOptions


_KNOWN: dict[str, str] = {}


def _homes() -> dict[str, str]:
    """Public name -> the module that defines it, read from the block above when first asked for."""
    if _KNOWN:
        return _KNOWN
    import ast
    from importlib.resources import files

    tree = ast.parse(files(__name__).joinpath("__init__.py").read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    _KNOWN.update({alias.name: str(node.module) for node in imports for alias in node.names})
    return _KNOWN


def __getattr__(name: str) -> object:
    if name == "__all__":
        # `from chorus import *` asks for it, and loads everything
        return ["__version__", *_homes()]
    # Python and its tools ask modules for many names of their own: none of these is worth reading the file
    if name.startswith("_") or name not in _homes():
        raise AttributeError(f"module 'chorus' has no attribute {name!r}")
    from importlib import import_module

    value: object = getattr(import_module(_homes()[name]), name)
    globals()[name] = value  # the next look-up does not come here
    return value


def __dir__() -> list[str]:
    return sorted(["__version__", *_homes()])
