"""An adapter from a full fine-tune: the best low-rank approximation of each matrix's difference to the base."""

from __future__ import annotations

import math
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from chorus.architectures.modules import modules_of
from chorus.architectures.salmonn import is_salmonn
from chorus.checkpoints.adapter_report import AdapterResult, ModuleReport, notes
from chorus.checkpoints.adapter_writer import AdapterWriter, Layout
from chorus.checkpoints.model import OpenOptions
from chorus.checkpoints.open import Source
from chorus.checkpoints.output_place import refuse_input
from chorus.checkpoints.sidecar import write_json
from chorus.checkpoints.writer import appearing_whole, write_text
from chorus.errors import CheckpointError
from chorus.extract.pair import Counterparts, Pair, Selection, change, difference, open_pair
from chorus.lazy import lazy
from chorus.linalg.lapack import one_blas_thread
from chorus.linalg.low_rank import LowRank, norm
from chorus.linalg.ranks import RankRule
from chorus.linalg.spectra import Triplets, singular_triplets
from chorus.models.registry import peft_task
from chorus.progress import Progress
from chorus.provenance import licence_of, model_card
from chorus.runtime import threads

if TYPE_CHECKING:
    import torch

    from chorus.linalg.low_rank import Delta
else:
    torch = lazy("torch")

DEFAULT_RANK = 32
NOT_DECOMPOSED = ("norm", "bias", "position", "statistics")
TRANSPOSED = ("gpt2", "gpt_bigcode", "imagegpt", "decision_transformer")  # their linear weights are [in, out]


def extract_lora(
    model: Source,
    base: Source,
    output: str | Path,
    *,
    ranks: RankRule | None = None,
    selection: Selection | None = None,
    embeddings: bool = False,
    save_vectors: bool = False,
    distribute_scale: bool = True,
    smallest: float = 0.0,
    dtype: str = "float32",
    jobs: int | None = None,
    overwrite: bool = False,
    options: OpenOptions | None = None,
    progress: Progress = lambda done, total: None,
) -> AdapterResult:
    """Write a PEFT adapter whose merge into `base` is as near to `model` as its ranks allow.

    `model` and `base` are whatever `chorus.open_model` takes, a plan or recipe too. `ranks` defaults to rank 32.
    Matrices of attention, MLPs and convolutions are decomposed, embeddings and heads with `embeddings`; norms and
    biases are left out, or kept whole with `save_vectors`. With `distribute_scale` the singular values are split
    evenly over both factors, else they stay in A; those up to `smallest` are dropped.
    Raises `CheckpointError` for models that do not fit each other.

    >>> import chorus
    >>> chorus.extract_lora("tuned", "whisper-small", "adapter")  # doctest: +SKIP
    AdapterResult(directory=PosixPath('adapter'), ...)
    """
    pair = open_pair(model, base, options)
    refuse_input(Path(output), [*pair.model.places, *pair.base.places])
    if is_salmonn(pair.base.config):
        raise CheckpointError(
            f"{pair.base.label}: SALMONN's LoRA stands in its file, beside what PEFT puts no factors on",
            "take a task vector instead, which keeps its factors: chorus extract task-vector",
        )
    if pair.base.config.get("model_type") in TRANSPOSED:
        raise CheckpointError(
            f"{pair.base.label}: {pair.base.config['model_type']} stores its matrices transposed, not supported yet",
            "take a task vector instead: chorus extract task-vector",
        )
    directory, rule = Path(output), ranks or RankRule(max_rank=DEFAULT_RANK)
    with appearing_whole(directory, overwrite=overwrite) as partial:
        run = _Extraction(pair, AdapterWriter(partial.path, dtype), rule, distribute_scale, smallest)
        return run.run(directory, selection or Selection(), embeddings, save_vectors, jobs, progress)


class _Extraction:
    """The state of one extraction, shared by its threads."""

    def __init__(self, pair: Pair, writer: AdapterWriter, rule: RankRule, distribute: bool, smallest: float) -> None:
        self.pair, self.writer, self.rule, self.distribute, self.smallest = pair, writer, rule, distribute, smallest
        self.ranks: dict[str, int] = {}
        self.dropped: list[tuple[str, float]] = []

    def run(
        self,
        directory: Path,
        selection: Selection,
        embeddings: bool,
        save_vectors: bool,
        jobs: int | None,
        progress: Progress,
    ) -> AdapterResult:
        base = self.pair.base
        # of the whole base, not of the selection: an ending stands for modules that were left out as well
        adaptable = modules_of(base.config, {name: tensor.shape for name, tensor in base.checkpoint.items()})
        matrices: list[Counterparts] = []
        vectors: list[Counterparts] = []
        for job in self.pair.tensors(selection):
            shape, role = job.shape, job.role
            # a depthwise convolution [channels, 1, k] is no matrix between channels: factors would save nothing
            dense = len(shape) > 1 and min(shape[:2]) > 1 and role.kind not in NOT_DECOMPOSED
            embedding = _embeds(job)
            dense = dense and job.name.removesuffix(".weight") not in adaptable.unfit
            (matrices if dense and (embeddings or not embedding) else vectors).append(job)
        matrices += self.pair.copies(matrices)
        # the largest first, or one thread is left alone with it at the end
        matrices.sort(key=lambda job: -job.shape[0] * job.shape[1])
        modules = self._decompose(matrices, threads(jobs), progress)
        self._vectors(vectors, save_vectors)
        self.writer.finish(
            base=self.pair.references[1].as_written,
            task_type=peft_task(base.config),
            every_module=adaptable.every,
            names=adaptable.names,
        )
        result = AdapterResult(directory, [], modules, sorted(self.writer.saved), sorted(self.dropped))
        shapes = {job.name: job.shape for job in matrices}
        result.parameters = sum(m.rank * sum(_matrix(shapes[m.tensor])) for m in modules)
        result.warnings = notes(result) + self._flags(vectors, embeddings, save_vectors)
        self._write_side_files(result, selection)
        result.warnings = self.pair.warnings + result.warnings  # of the inputs: not what the card is for
        return result

    def _flags(self, left_out: list[Counterparts], embeddings: bool, save_vectors: bool) -> list[str]:
        """What would have kept the tensors that were dropped."""
        gone = {name for name, _ in self.dropped}
        matrices = [job for job in left_out if job.name in gone and len(job.shape) > 1]
        kinds = {
            "embeddings and heads": not embeddings and any(_embeds(job) for job in matrices),
            "norms and biases": not save_vectors and any(len(j.shape) < 2 for j in left_out if j.name in gone),
        }
        flags = {"embeddings and heads": "--embeddings", "norms and biases": "--save-full vectors"}
        told = [f"{what} with {flags[what]}" for what, wanted in kinds.items() if wanted]
        return [f"an adapter can hold {', '.join(told)}"] if told else []

    def _decompose(self, matrices: list[Counterparts], jobs: int, progress: Progress) -> list[ModuleReport]:
        total, done = sum(_bytes(job) for job in matrices), 0
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        reports = []
        try:
            # one thread a matrix instead of many threads in one: the sizes are too different for BLAS to share them out
            # well
            with one_blas_thread(), ThreadPoolExecutor(jobs, thread_name_prefix="extract") as pool:
                # a budget needs all spectra before the first rank: every matrix is decomposed twice, as vectors would
                # not fit memory
                if self.rule.budget is not None:
                    spectra = dict(zip((j.name for j in matrices), pool.map(self._spectrum, matrices), strict=True))
                    self.ranks = self.rule.ranks(spectra, {j.name: _matrix(j.shape) for j in matrices})
                for job, report in zip(matrices, pool.map(self._module, matrices), strict=True):
                    done += _bytes(job)
                    progress(done, total)
                    reports.append(report)
        finally:
            torch.set_num_threads(before)
        return sorted(reports, key=lambda r: r.tensor)  # the order must not tell which was largest

    def _spectrum(self, job: Counterparts) -> list[float]:
        """All singular values of one difference, for the budget."""
        with torch.inference_mode():
            found = singular_triplets(self._difference(job), lambda values: 0)
            assert found.spectrum is not None
            return [float(v) for v in found.spectrum]

    def _difference(self, job: Counterparts) -> Delta:
        delta = difference(job, self.pair.model.label)
        return delta.matrix() if isinstance(delta, LowRank) else delta.reshape(_matrix(delta.shape))

    def _module(self, job: Counterparts) -> ModuleReport:
        # in every thread anew: the mode belongs to the thread that enters it
        with torch.inference_mode():
            torch.set_num_threads(1)
            delta = self._difference(job)
            squares = norm(delta) ** 2 if isinstance(delta, LowRank) else float(delta.double().square().sum())
            found = self._cut(delta, job.name)
            if not found.rank:
                return ModuleReport(job.name, 0, 1.0 if not squares else 0.0, "svd")
            # even factors keep float16 out of trouble: all of S in one of them may over- or underflow
            root = found.values.sqrt() if self.distribute else torch.ones_like(found.values)
            layout: Layout = "embedding" if job.role.kind == "embedding" else "linear"
            if len(job.shape) > 2:
                layout = "convolution"
            self.writer.add(
                job.name.removesuffix(".weight"),
                found.left * root,
                (found.right * (found.values / root)).T,
                layout=layout,
                kernel=job.shape[2:],
            )
            energy = float(found.values.double().square().sum()) / squares
        # above one by rounding only: the values come from another sum than the norm
        return ModuleReport(job.name, found.rank, min(1.0, energy), "svd")

    def _cut(self, delta: Delta, name: str) -> Triplets:
        """The triplets that the rule keeps."""
        limit = self.rule.max_rank if self.rule.budget is None else self.ranks[name]
        if self.rule.energy is not None:
            found = singular_triplets(delta, self.rule.rank_of)
        else:
            found = singular_triplets(delta, limit, whole=False, projection=True)
        return found.first(int((found.values > self.smallest).sum())) if self.smallest else found

    def _vectors(self, jobs: list[Counterparts], save: bool) -> None:
        """Tensors that are not decomposed: kept whole, or dropped with the size of their change.

        PEFT saves modules, and misses what one lacks: what is unchanged goes with the rest, and a module is left that
        has more than vectors (a convolution under a weight norm).
        """
        sizes = {job.name: change(job, self.pair.model.label) for job in jobs}
        changed = {_module(name) for name, size in sizes.items() if size}
        tensors = self.pair.base.checkpoint
        above = _with_ancestors(_module(name) for name, tensor in tensors.items() if len(tensor.shape) > 1)
        for job in jobs:
            module, size = _module(job.name), sizes[job.name]
            weight = tensors.get(f"{module}.weight")
            matrix = weight is not None and len(weight.shape) > 1
            if not size and (matrix or module not in changed):
                continue
            vector = job.role.kind != "embedding" and len(job.shape) < 2
            kept = save and vector and (matrix or module not in above)
            if kept and self.writer.add_whole(job.name, job.tensor.read().float(), matrix=matrix):
                continue
            if size:
                self.dropped.append((job.name, size))

    def _write_side_files(self, result: AdapterResult, selection: Selection) -> None:
        facts = {
            "settings": {"ranks": vars(self.rule), "selection": vars(selection)},
            "modules": [vars(m) for m in result.modules],
            "modules_to_save": result.saved,
            "dropped": [{"tensor": name, "norm": size} for name, size in result.dropped],
        }
        directory = self.writer.directory
        write_json(directory / "chorus.json", self.pair.provenance("lora", **facts))
        names = [self.pair.model.label, self.pair.base.label]
        models = (self.pair.model, self.pair.base)
        licences = {name: licence_of(model.directory) for name, model in zip(names, models, strict=True)}
        card = model_card(
            title=f"Adapter of {names[0]}",
            method="extract lora",
            base_models=self.pair.references[1].hub_ids,
            licences=licences,
            languages=[],
            pipeline_tag=None,
            recipe_yaml=f"extracted from: {names[0]}\nbase_model: {names[1]}",
            losses=result.warnings,
            adapter=True,
            intro=f"The low-rank part of what {names[0]} learnt beyond {names[1]}",
        )
        write_text(directory / "README.md", card)


def _module(name: str) -> str:
    return name.rpartition(".")[0]


def _with_ancestors(modules: Iterable[str]) -> set[str]:
    """Modules, and all that they stand in; in one pass, as mixtures of experts have tens of thousands."""
    found: set[str] = set()
    for module in modules:
        while module and module not in found:
            found.add(module)
            module = _module(module)
    return found


def _embeds(job: Counterparts) -> bool:
    return job.role.component in ("embeddings", "lm_head") or job.role.kind == "embedding"


def _matrix(shape: tuple[int, ...]) -> tuple[int, int]:
    return shape[0], math.prod(shape[1:])


def _bytes(job: Counterparts) -> int:
    return 4 * math.prod(job.shape)
