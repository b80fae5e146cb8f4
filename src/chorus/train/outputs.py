"""What a training leaves: the model or adapter with everything that runtimes ask for, its card, its provenance."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from chorus._version import __version__
from chorus.checkpoints.reference import is_hub_id, looks_local, public_name
from chorus.checkpoints.sidecar import copy_side_files, write_json
from chorus.checkpoints.writer import appearing_whole, explained, write_text
from chorus.errors import ChorusError
from chorus.models.languages import published_code
from chorus.provenance import Card, licence_of, versions
from chorus.train.adapters import merged_model, save_adapter
from chorus.train.config import TrainConfig
from chorus.train.curve import plot_curve
from chorus.train.facts import Curve, DataFacts, Identity, TrainingFacts
from chorus.train.rows import TrainingRows, counts

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, TrainerState

    from chorus.train.backbones.protocol import Backbone

PROVENANCE, CURVE = "chorus.json", "curve.png"
SHARD = "5GB"


def save_result(
    model: PreTrainedModel, backbone: Backbone, config: TrainConfig, facts: TrainingFacts, *, overwrite: bool,
    logs: Path, state: dict[str, torch.Tensor] | None = None,
) -> Path:  # fmt: skip
    """Write the result's directory, whole or not at all; the merged model of an adapter beside it.

    `state` holds the weights where the model itself has only its process's share.
    """
    final = Path(config.output_dir)
    # killed while it writes, a training that is given again has only this left to do
    work = facts["fingerprint"]
    adapter, tag = hasattr(model, "peft_config"), backbone.kind.pipeline_tag
    refuse_unfinite(model.named_parameters() if state is None else state.items())
    with appearing_whole(final, overwrite=overwrite, work=work) as partial, explained(partial.path):
        if adapter:
            save_adapter(model, config.adapter, partial.path, base=config.model.base, logs=logs, state=state)
            (partial.path / "README.md").unlink(missing_ok=True)  # PEFT's template
        else:
            model.save_pretrained(partial.path, max_shard_size=SHARD, state_dict=state)
        _side_files(backbone, partial.path)
        _paperwork(partial.path, config, facts, adapter=adapter, pipeline_tag=tag)
        _readable(partial.path)
    if adapter and state is None and config.adapter is not None and config.adapter.merge:
        with appearing_whole(merged_dir(final), overwrite=overwrite, work=work) as partial, explained(partial.path):
            merged_model(model).save_pretrained(partial.path, max_shard_size=SHARD)
            _side_files(backbone, partial.path)
            _paperwork(partial.path, config, facts, adapter=False, pipeline_tag=tag)
            _readable(partial.path)
    return final


def refuse_unfinite(weights: Iterable[tuple[str, torch.Tensor]]) -> None:
    """`ChorusError` where a weight is no finite number: the last step's loss is of the weights before it."""
    for name, weight in weights:
        if not bool(weight.isfinite().all()):
            raise ChorusError(
                f"{name} holds values that are not finite after the training, so that nothing is written",
                "lower train.learning_rate, or use another train.precision or model.dtype",
            )


def merged_dir(final: Path) -> Path:
    """Where the merged model of an adapter goes."""
    return final.with_name(f"{final.name}-merged")


def _readable(directory: Path) -> None:
    """The rights that the user's umask gives; safetensors writes files that only their owner reads."""
    mask = os.umask(0)
    os.umask(mask)
    for path in directory.iterdir():
        path.chmod(0o666 & ~mask)


def _side_files(backbone: Backbone, directory: Path) -> None:
    """Tokenizer, processor and generation settings, with the forms that other runtimes ask for."""
    # by way of another folder: save_pretrained writes one form, copy_side_files adds the others
    with tempfile.TemporaryDirectory() as folder:
        backbone.save_side_files(Path(folder))
        files = sorted(path for path in Path(folder).rglob("*") if path.is_file())
        copy_side_files({str(path.relative_to(folder)): path for path in files}, directory)


def _paperwork(directory: Path, config: TrainConfig, facts: TrainingFacts, *, adapter: bool, pipeline_tag: str) -> None:
    write_json(directory / PROVENANCE, facts)
    write_text(directory / "README.md", card(config, facts, adapter=adapter, pipeline_tag=pipeline_tag))
    curve = facts["curve"]
    if curve:
        title = f"{Path(config.output_dir).name}: {_way(config)}"
        plot_curve(curve, config.metric, directory / CURVE, title, facts.get("best_step"))


def provenance(
    config: TrainConfig,
    rows: TrainingRows,
    identity: Identity,
    *,
    points: Curve,
    state: TrainerState,
    sizes: tuple[int, int],
) -> TrainingFacts:
    """Settings, data, versions and the curve; no times, hosts or absolute paths, so that it can be compared."""
    return {
        "chorus": __version__,
        "kind": "train",
        "versions": versions(("accelerate", "peft", "tokenizers", "soundfile", "soxr")),
        "base_model": public_name(config.model.base),
        "base_revision": config.model.revision,
        "config": _public_map(config.model_dump(mode="json", exclude={"output", "logs", "device"})),
        "data": _data_facts(rows),
        "steps": state.global_step,
        "best_step": state.best_global_step or state.global_step,
        "metric": config.metric,
        "normaliser": config.dev.normaliser,
        "best": round(state.best_metric, 4) if state.best_metric is not None else None,
        "trained_parameters": sizes[0],
        "parameters": sizes[1],
        "curve": points,
        **identity,
    }


def _data_facts(rows: TrainingRows) -> DataFacts:
    found = DataFacts(
        manifests=rows.hashes,
        train_rows=len(rows.train),
        train_hours=round(rows.hours, 4),
        dev_rows=len(rows.dev),
        left_out={reason: len(names) for reason, names in rows.left_out.items()},
        speakers=len(counts(rows.train, "speaker")),
    )
    languages, domains = counts(rows.train, "language"), counts(rows.train, "domain")
    if languages:
        found["language"] = languages
    if domains:
        found["domain"] = domains
    return found


def _public_map(settings: dict[str, object]) -> dict[str, object]:
    return {key: _public(value) for key, value in settings.items()}


def _public(value: object) -> object:
    """Settings with local paths cut to their last part."""
    if isinstance(value, dict):
        return _public_map(value)
    if isinstance(value, list):
        return [_public(v) for v in value]
    return public_name(value) if isinstance(value, str) and "/" in value and looks_local(value) else value


def _way(config: TrainConfig) -> str:
    return config.adapter.type if config.adapter else "adapter" if config.model.adapter else "full fine-tune"


def card(config: TrainConfig, facts: TrainingFacts, *, adapter: bool, pipeline_tag: str) -> str:
    """README.md as the hub reads it."""
    base, local, data = str(facts["base_model"]), Path(config.model.base), facts["data"]
    rows = [("training data", f"{data['train_rows']} rows, {data['train_hours']:.2f} h")]
    counts = {"language": data.get("language", {}), "domain": data.get("domain", {})}
    rows += [(column, ", ".join(f"{k} {v}" for k, v in found.items())) for column, found in counts.items() if found]
    rows.append(("steps", f"{facts['steps']}, kept: {facts['best_step']}"))
    rows.append(("learnt", f"{facts['trained_parameters']:,} of {facts['parameters']:,} parameters"))
    rows += _measured(facts)
    return Card(
        title=Path(config.output_dir).name,
        intro=f"{base}: {_way(config)}",
        base_models=[base] if is_hub_id(base) else [],
        relation="adapter" if adapter else "finetune",
        tags=["chorus", *([config.adapter.type] if config.adapter else [])],
        rows=rows,
        settings=("Settings", yaml.safe_dump(facts["config"], sort_keys=False)),
        kept="the settings, the hashes of the manifests, the versions and the curve",
        licence=licence_of(local if local.is_dir() else None),
        # as the hub spells them, whatever a manifest calls them
        languages=list(dict.fromkeys(filter(None, map(published_code, counts["language"])))),
        pipeline_tag=pipeline_tag,
        picture=f"![learning curve]({CURVE})" if facts["best"] is not None else "",
    ).text()


def _measured(facts: TrainingFacts) -> list[tuple[str, str]]:
    """The row of the dev measure, before and after."""
    if facts["best"] is None:
        return []
    unit = "" if facts["metric"] == "loss" else f" % (normaliser: {facts['normaliser']})"
    start = facts["curve"].get(f"dev_{facts['metric']}", [[0, None]])[0]
    before = f"; before training {start[1]:.2f}" if start[0] == 0 and start[1] is not None else ""
    return [(f"dev {facts['metric']}", f"{facts['best']:.2f}{unit} on {facts['data']['dev_rows']} rows{before}")]
