"""`chorus train`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from chorus.cli.flags import device_flag, json_flag, overwrite_flag, quiet_flag
from chorus.cli.output import as_json, note, table
from chorus.errors import UsageError
from chorus.tables import Table

if TYPE_CHECKING:
    from chorus.train.config import TrainConfig
    from chorus.train.facts import Trained


@click.command("train")
@click.argument("arguments", nargs=-1, metavar="[CONFIG]... [KEY=VALUE]...")
@click.option(
    "--config", "configs", multiple=True, type=click.Path(), help="A configuration; later ones lie over earlier."
)
@click.option("--task", metavar="TASK", help="One of `chorus tasks`, or lm; lay the configuration over its base.yaml.")
@click.option("--print-config", is_flag=True, help="Show what holds after layering, and end.")
@device_flag("auto", by_config=True)
@click.option("--joint", is_flag=True, help="One model on all domains at once.")
@click.option("--continual", is_flag=True, help="One model, taught one domain after another.")
@click.option(
    "--by",
    metavar="COLUMN",
    help="With --continual: the column that is walked.  [default: task where rows name several, else domain]",
)
@click.option("--each", metavar="COLUMN", help="One specialist for each value of a column, such as domain.")
@click.option(
    "--only", multiple=True, metavar="VALUE", help="With --each and --continual: these values, in this order."
)
@click.option("--order", metavar="NAME", help="With --continual: tasks in an order that has a name (docs/tasks.md).")
@click.option("--parallel", type=click.IntRange(1), help="Trainings at once.  [default: one for each GPU, else one]")
@click.option("--merge", is_flag=True, help="Write an adapter's merged model too.")
@click.option("--skip-bad", is_flag=True, help="Leave out rows that cannot be used, and count them.")
@click.option("--allow-leakage", is_flag=True, help="Train although dev or test recordings are in the training data.")
@click.option("--restart", is_flag=True, help="Begin again, whatever checkpoints are there.")
@overwrite_flag("Replace what is at the output.")
@json_flag()
@quiet_flag()
def command(arguments: tuple[str, ...], configs: tuple[str, ...], **flags: Any) -> None:
    """Fine-tune as the configuration says; give the same command again after a kill, and it goes on.

    \b
    chorus train model.base=openai/whisper-small data.train=speech/manifest.csv
    chorus train lora.yaml train.learning_rate=1e-4 --each domain
    """
    from chorus.train.layers import as_yaml, load_train_config

    # a setting is what has a = in it: files come first and settings lie over them, in whatever order they are given
    files = [a for a in arguments if "=" not in a] + list(configs)
    overrides = [a for a in arguments if "=" in a]
    if not files and not overrides:
        raise UsageError(
            "no configuration", "chorus train CONFIG, or KEY=VALUE settings: model.base=... data.train=..."
        )
    # as settings, so that they are checked, recorded and layered as any other
    if flags["device"]:
        overrides.append(f"device={flags['device']}")  # last, so that the flag goes over files and settings
    if flags["merge"]:
        overrides.append("adapter.merge=true")
    config = load_train_config(*files, overrides=overrides, task=flags["task"])
    if flags["print_config"]:
        click.echo(as_yaml(config), nl=False)
        return
    settings = {k: flags[k] for k in ("skip_bad", "allow_leakage", "restart", "overwrite", "quiet")}
    if flags["joint"] or flags["continual"] or flags["each"]:
        _campaign(config, flags, settings)
        return
    if flags["only"] or flags["parallel"] or flags["by"] or flags["order"]:
        told = "--only, --by, --order and --parallel go with --each and --continual"
        raise UsageError(told, "name the column: --each domain")
    from chorus.train.processes import is_main
    from chorus.train.run import train

    result = train(config, **settings, note=lambda text: note(text, quiet=flags["quiet"]))
    # under `accelerate launch` every process comes here, and one of them speaks
    if not is_main():
        return
    if flags["json_"]:
        as_json(result.as_dict())
        return
    click.echo(str(result.directory))
    if result.merged:
        click.echo(str(result.merged))
    note(_told(result), quiet=flags["quiet"])
    # an adapter is no model by itself: the hint names it on its base, as recipes do
    adapter = config.adapter is not None or config.model.adapter is not None
    specialist = f'"{config.model.base}+{result.directory}"' if adapter else str(result.directory)
    note(f"next: name {specialist} under models: in a recipe, and chorus merge it", quiet=flags["quiet"])


def _told(result: Trained) -> str:
    if result.best is None:
        return f"{result.steps} steps"
    unit = "" if result.metric == "loss" else " %"
    before = f", before {result.before:.2f}{unit}" if result.before is not None else ""
    return f"dev {result.metric} {result.best:.2f}{unit}{before}; step {result.best_step} of {result.steps} is kept"


def _campaign(config: TrainConfig, flags: Mapping[str, Any], settings: Mapping[str, bool]) -> None:
    from chorus.train.campaign import run_jobs
    from chorus.train.jobs import plan_jobs, walked_column
    from chorus.train.orders import order

    walked, only = flags["by"], list(flags["only"])
    if flags["order"]:
        if not flags["continual"] or only or flags["by"]:
            raise UsageError("--order names column and values of --continual", "give it without --only and --by")
        walked, only = config.data.task_column, list(order(flags["order"]))
    if flags["continual"]:
        walked = walked or walked_column(config)
    jobs = plan_jobs(
        config, joint=flags["joint"], continual=walked if flags["continual"] else None, each=flags["each"], only=only
    )
    results = run_jobs(
        jobs, parallel=flags["parallel"], settings=settings, note=lambda t: note(t, quiet=flags["quiet"])
    )
    if flags["json_"]:
        as_json([{"job": job.name, **result} for job, result in zip(jobs, results, strict=True)])
        return
    rows = []
    for job, result in zip(jobs, results, strict=True):
        numbers = ["-" if value is None else f"{value:.2f}" for value in (result["before"], result["best"])]
        rows.append((job.name, *numbers, str(result["steps"]), result["directory"]))
    table(Table("", ["", f"dev {config.metric} before", "after", "steps", "directory"], rows))
