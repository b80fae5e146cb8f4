"""Everything of a merged adapter but its factors: config, card, `chorus.json`; and what is said about it."""

from __future__ import annotations

import yaml

from chorus.architectures.modules import Modules
from chorus.checkpoints.adapter_report import AdapterResult, notes
from chorus.checkpoints.adapter_writer import AdapterWriter
from chorus.checkpoints.model import Model
from chorus.checkpoints.public_recipe import public_document
from chorus.checkpoints.reference import is_hub_id
from chorus.checkpoints.sidecar import write_json
from chorus.checkpoints.writer import write_text
from chorus.merge.plan import Plan, Variant
from chorus.merge.runs.side_files import input_identities, provenance_of
from chorus.models.registry import peft_task
from chorus.provenance import licence_warnings, model_card


def write_adapter_files(
    plan: Plan, variant: Variant, base: Model, modules: Modules, writer: AdapterWriter, result: AdapterResult
) -> list[str]:
    """Put the adapter together and write its side files; returns warnings."""
    config = writer.finish(
        base=base_name(plan), task_type=task_type(plan, base), every_module=modules.every, names=modules.names
    )
    # factors are made without reading a base of gigabytes, so it is not read for a hash either
    document = provenance_of(plan, variant, input_identities(plan, {}, read_files=False), {})
    document["adapter"] = {
        "modules": [vars(m) for m in result.modules],
        "modules_to_save": result.saved,
        "dropped": [{"tensor": name, "norm": size} for name, size in result.dropped],
    }
    write_json(writer.directory / "chorus.json", document)
    warnings = notes(result)
    count = sum(r.adapter is not None for r in plan.references)
    merged = f"{count} adapters" if count else f"{len(plan.references) - 1} models"
    recipe = public_document(plan.recipe.document, plan.references)
    if plan.options.model_card:
        card = model_card(
            title=variant.name or plan.recipe.recipe.name or f"{variant.method} of {merged}",
            method=variant.method,
            base_models=[name for name in [str(config["base_model_name_or_path"])] if is_hub_id(name)],
            licences=plan.licences,
            languages=[],
            pipeline_tag=None,
            recipe_yaml=yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True),
            losses=warnings,
            adapter=True,
            intro=f"A merge of {merged} by `{variant.method}`",
        )
        write_text(writer.directory / "README.md", card)
    return warnings + licence_warnings(plan.licences)


def base_name(plan: Plan) -> str:
    """The base as the merged adapters call it, where they agree; else as the recipe does."""
    named = {str(m.adapter_config.get("base_model_name_or_path") or "") for m in plan.models if m.adapter_config}
    if len(named) == 1 and "" not in named:
        return named.pop()
    return plan.references[0 if plan.base is None else plan.base].without_adapter.as_written


def task_type(plan: Plan, base: Model) -> str | None:
    """PEFT's task type, as the merged adapters state it, else by the architecture; None for speech models."""
    # None is PEFT's plain wrapper; mergekit's extraction says CAUSAL_LM of every model, of a Whisper too
    named = {m.adapter_config.get("task_type") for m in plan.models if m.adapter_config}
    if len(named) == 1:
        found = named.pop()
        return None if found is None else str(found)
    return peft_task(base.config)
