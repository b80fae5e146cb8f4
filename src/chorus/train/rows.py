"""From a configuration to the utterances that are learnt and measured, with what was left out and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from chorus.data.choices import TASK, needs_of, read_asked
from chorus.data.manifest import SECOND, Row, read_manifest, select
from chorus.data.parallel import in_order
from chorus.data.split import SPLIT_NAMES
from chorus.data.utterance import Utterance, fault_of, length_of, recordings_of
from chorus.errors import DataError, RecipeError
from chorus.files import present
from chorus.identity import file_hash
from chorus.tasks.registry import TASKS
from chorus.train.asked import answered, answers_labels, as_of, told_of_tasks
from chorus.train.config import RowSource, TrainConfig
from chorus.train.mixing import shares

if TYPE_CHECKING:
    from chorus.data.hub import DatasetRows

SHOWN = 5


@dataclass(frozen=True)
class Stream:
    """The rows of a streamed dataset, each with what its audio cell holds, filtered as the source says."""

    rows: DatasetRows
    source: RowSource
    language: str
    task_column: str

    def set_epoch(self, epoch: int) -> None:
        """Another order for each epoch, the same after a resume."""
        self.rows.dataset.set_epoch(epoch)

    def __iter__(self) -> Iterator[tuple[Row, object]]:
        taken = 0
        for row, value in self.rows:
            for named in as_of([_named(row, self.source)], self.source.task, self.task_column):
                if not select([named], self.source.where):
                    continue
                yield replace(named, language=named.language or self.language), value
                taken += 1
            if self.source.limit and taken >= self.source.limit:
                return


@dataclass
class TrainingRows:
    """The utterances of a training, and what was left out of it: reason -> names."""

    train: list[Utterance]
    dev: list[Utterance]
    test: list[Utterance]
    left_out: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)  # what people should know of the rows that stay
    hashes: dict[str, str] = field(default_factory=dict)  # of the manifests
    stream: Stream | None = None  # the rows of a streamed dataset, in place of `train`
    read: set[tuple[Path, str]] = field(default_factory=set)  # manifests, and as what task's
    every: list[Row] = field(default_factory=list)  # of the manifests, whichever of them are used: labels are theirs
    task_column: str = TASK

    def know(self, manifest: Path) -> None:
        """Keep a manifest's hash under its name; others of the same name are numbered."""
        digest = file_hash(manifest)
        if digest not in self.hashes.values():
            count = sum(name == manifest.name or name.startswith(f"{manifest.name} (") for name in self.hashes)
            self.hashes[manifest.name if not count else f"{manifest.name} ({count + 1})"] = digest

    @property
    def hours(self) -> float:
        return sum(u.duration_s for u in self.train) / 3600


def gather(
    config: TrainConfig,
    *,
    needs_audio: bool = True,
    skip_bad: bool = False,
    allow_leakage: bool = False,
    answers: bool = True,
) -> TrainingRows:
    """Read the manifests and datasets, and refuse what would spoil the training.

    Raises `DataError` for missing or unreadable audio and empty texts (left out with `skip_bad`), for rows that
    training and dev or test share (allowed with `allow_leakage`), and where nothing is left. Without `answers` rows of
    labels need none.
    """
    found = TrainingRows([], [], [], task_column=config.data.task_column)
    streams = [s for s in config.data.train if s.streaming]
    if streams:
        if len(config.data.train) > 1:
            raise DataError("data.train: a streamed dataset stands alone", "stream it, or give the others as manifests")
        if config.data.mix is not None:  # how large the groups are is known of none
            raise RecipeError(["data.mix: a streamed dataset is not mixed"], "leave one of them out", "training")
        task = streams[0].task or config.task
        if answers_labels(task):  # which there are only all rows tell
            raise DataError(f"data.train: a streamed dataset of the task {task}", "give it without streaming")
        rows = _open(streams[0], "train")
        rows.dataset = rows.dataset.shuffle(seed=config.seed, buffer_size=streams[0].shuffle_buffer)
        found.stream = Stream(rows, streams[0], config.data.language, config.data.task_column)
    else:
        found.train = _load(config.data.train, "train", config, found, needs_audio)
    dev = config.data.dev
    found.dev = _load(
        dev if dev is not None else _with_dev(config.data.train), "dev", config, found, needs_audio,
        given=dev is not None,
    )  # fmt: skip
    found.test = _load(config.data.test or [], "test", config, found, needs_audio)
    read = len(found.train)
    out = found.left_out if skip_bad else None
    for name in ("train", "dev", "test"):
        known = answered(getattr(found, name), config, found.every, out, answers=answers)
        setattr(found, name, _probe(known, config, found, needs_audio, skip_bad=skip_bad, answers=answers))
    longest = config.data.max_duration_s
    for name in ("train", "dev"):
        setattr(found, name, _fitting(getattr(found, name), config.data.min_duration_s, longest, found, needs_audio))
    if not found.train and found.stream is None:
        raise DataError(
            f"no training rows are left of {read}" + _why(found), "loosen data.train.where, split or durations"
        )
    found.notes += told_of_tasks(found.train, config)
    shares(found.train, config)  # groups that there are none of, before a model is loaded
    if needs_audio and not allow_leakage:
        _refuse_leakage(found)
    return found


def _with_dev(sources: Sequence[RowSource]) -> list[RowSource]:
    """Where the rows for measuring come from when none are named: the same manifests' dev rows."""
    return [s for s in sources if s.manifest and not s.split]


def _load(
    sources: Iterable[RowSource],
    role: str,
    config: TrainConfig,
    found: TrainingRows,
    needs_audio: bool,
    *,
    given: bool = True,
) -> list[Utterance]:
    utterances: list[Utterance] = []
    for source in sources:
        task = source.task or config.task
        own: list[Utterance]
        if source.manifest:
            needs = needs_of(TASKS.get(task)) if needs_audio else ("text",)
            own = [Utterance(r) for r in _manifest_rows(source, role, found, needs, given=given)]
        else:
            own = _dataset_rows(source, role, config.data.task_column)
            found.every += [one.row for one in own]
        utterances += own
    language = config.data.language
    return [replace(u, row=replace(u.row, language=u.row.language or language)) for u in utterances]


def columns_of(sources: Sequence[RowSource]) -> set[str]:
    """The columns that a source's rows have values of, beside text and times."""
    manifests = [read_manifest(s.manifest, columns=s.columns, needs=()) for s in sources if s.manifest]
    return {k for m in manifests for row in m for k in ("speaker", "domain", "language", *row.extra) if row.get(k)}


def spellings(config: TrainConfig, source: RowSource, role: str, column: str) -> dict[str, list[str]]:
    """A column's values among a source's rows, and how the rows write each for its `where`: empty for a default."""
    default = {"domain": source.domain, "language": source.language or config.data.language}.get(column, "")
    if source.dataset:  # whose rows are chosen under the source's own domain and language
        rows = [u.row for u in _dataset_rows(source, role, config.data.task_column)]
    else:
        fresh = TrainingRows([], [], [], task_column=config.data.task_column)
        needs = () if answers_labels(source.task or config.task) else ("text",)
        rows = _chosen_rows(source, role, fresh, needs, given=True)[: source.limit]
    found: dict[str, dict[str, None]] = {}
    for row in rows:
        written = row.get(column)
        found.setdefault(written or default, {})[written] = None
    return {value: list(ways) for value, ways in found.items() if value}


def _manifest_rows(
    source: RowSource, role: str, found: TrainingRows, needs: Sequence[str], *, given: bool
) -> list[Row]:
    rows = _chosen_rows(source, role, found, needs, given=given)
    return [_named(row, source) for row in rows[: source.limit]]


def _chosen_rows(source: RowSource, role: str, found: TrainingRows, needs: Sequence[str], *, given: bool) -> list[Row]:
    assert source.manifest
    manifest = read_asked(
        source.manifest, needs, column=found.task_column, columns=source.columns, audio_dir=source.audio_dir
    )
    rows = as_of(manifest.rows, source.task, found.task_column)
    if (manifest.source, source.task) not in found.read:  # train and dev are often of one
        found.read.add((manifest.source, source.task))
        found.every += rows
    found.know(manifest.source)
    has_splits = any(row.split for row in rows)
    if source.split:
        rows = select(rows, {"split": source.split})
    elif has_splits and not (given and role != "train" and not any(r.split in SPLIT_NAMES[role] for r in rows)):
        rows = [row for row in rows if row.split in SPLIT_NAMES[role]]
    elif not given:
        return []  # a manifest without splits has no dev rows
    rows = select(rows, source.where)
    if not rows and role == "train":
        asked = f"split {source.split or 'train'}" + "".join(f", {k} {v}" for k, v in source.where.items())
        raise DataError(
            f"{source.manifest}: none of its {len(manifest)} rows is left ({asked})", "check split and where"
        )
    return rows


def _named(row: Row, source: RowSource) -> Row:
    return replace(row, language=row.language or source.language, domain=row.domain or source.domain)


def _open(source: RowSource, role: str) -> DatasetRows:
    from chorus.data.hub import DatasetRows, open_dataset

    assert source.dataset
    default = {"train": "train", "dev": "validation", "test": "test"}[role]
    dataset = open_dataset(
        source.dataset,
        name=source.name,
        split=source.split or default,
        revision=source.revision,
        streaming=source.streaming,
    )
    return DatasetRows(dataset, source.columns, source.dataset)


def _dataset_rows(source: RowSource, role: str, task_column: str) -> list[Utterance]:
    from chorus.data.hub import duration_s

    rows = _open(source, role)
    column = rows.names.get("path", "")
    found = []
    for index, (row, value) in enumerate(rows):
        for named in select(as_of([_named(row, source)], source.task, task_column), source.where):
            try:
                length = row.duration or duration_s(value)
            except DataError:
                length = 0.0  # refused or left out with the other bad rows
            found.append(Utterance(named, length, rows.dataset, index, column))
        if source.limit and len(found) >= source.limit:
            break
    return found


def _probe(
    utterances: list[Utterance], config: TrainConfig, found: TrainingRows, needs_audio: bool, *,
    skip_bad: bool, answers: bool,
) -> list[Utterance]:  # fmt: skip
    """Read every header: durations, and what cannot be used."""
    bad: dict[str, list[str]] = {}
    good: list[Utterance] = []
    lengths = in_order(_length, utterances, 8) if needs_audio else (1.0 + len(u.row.text) / 15 for u in utterances)
    for utterance, length in zip(utterances, lengths, strict=True):
        if isinstance(length, str):
            kind, _, detail = length.partition(": ")
            task = utterance.row.get(found.task_column) or config.task
            name = str(utterance.row) if utterance.dataset is not None else fault_of(utterance.row, task)[1]
            bad.setdefault(kind, []).append(f"{name}{': ' + detail if detail else ''}")
        elif answers and not utterance.row.text.strip():
            bad.setdefault("empty transcripts", []).append(str(utterance.row))
        else:
            good.append(replace(utterance, duration_s=length))
    if bad and not skip_bad:
        told = "; ".join(f"{len(names)} {kind}: {shown(names)}" for kind, names in bad.items())
        raise DataError(
            told, "mend the manifest (chorus data check names every row), or leave them out with --skip-bad"
        )
    for kind, names in bad.items():
        found.left_out.setdefault(kind, []).extend(names)
    return good


def decodable(utterances: Sequence[Utterance], rows: TrainingRows, *, skip_bad: bool) -> list[Utterance]:
    """Of the utterances that are measured those that can be decoded to their end: others would end every measuring."""

    def why_not(utterance: Utterance) -> str:
        try:
            utterance.audio()
        except DataError as error:
            # of a pair the message alone knows which of both it is
            told = error.message if utterance.row.get(SECOND) else error.message.partition(": ")[2]
            return f"{utterance.row}: {told}"
        return ""

    whys = list(in_order(why_not, utterances, 8))
    bad = [why for why in whys if why]
    if bad and not skip_bad:
        raise DataError(f"{len(bad)} damaged audio files: {shown(bad)}", "mend them, or leave them out with --skip-bad")
    if bad:
        rows.left_out.setdefault("damaged audio files", []).extend(bad)
    return [u for u, why in zip(utterances, whys, strict=True) if not why]


def _length(utterance: Utterance) -> float | str:
    row = utterance.row
    if utterance.dataset is not None:
        return utterance.duration_s or "dataset rows without readable audio"
    try:
        length = length_of(row)
    except DataError as error:
        missing = not present(fault_of(row)[0].audio)
        return "missing audio files" if missing else f"unreadable audio files: {error.message.partition(': ')[2]}"
    if length > 0:
        return length
    return "cuts behind the end of their file" if fault_of(row)[0].start else "audio files without samples"


def _fitting(
    utterances: list[Utterance], shortest: float, longest: float | None, found: TrainingRows, needs_audio: bool
) -> list[Utterance]:
    """Those of a length that can be learnt; the others are left out and counted."""
    if not needs_audio:
        return utterances
    kept = []
    for utterance in utterances:
        if utterance.duration_s < shortest:
            found.left_out.setdefault(f"shorter than {shortest:g} s", []).append(str(utterance.row))
        elif longest is not None and utterance.duration_s > longest + 0.01:
            found.left_out.setdefault(f"longer than {longest:g} s", []).append(str(utterance.row))
        else:
            kept.append(utterance)
    return kept


def _why(found: TrainingRows) -> str:
    return "".join(f"; {len(names)} {reason}" for reason, names in found.left_out.items())


def shown(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def _refuse_leakage(found: TrainingRows) -> None:
    """Audio that stands in training and in what it is measured on: by file and cut, then by content."""
    for name in ("dev", "test"):
        shared = leaked(found.train, getattr(found, name))
        if shared:
            raise DataError(
                f"{len(shared)} {name} recordings are in the training data: {shown(shared)}",
                "take them out of one side (chorus data split keeps speakers apart), or pass --allow-leakage",
            )


def leaked(train: Sequence[Utterance], held_out: Sequence[Utterance]) -> list[str]:
    """The held-out rows with audio that overlaps a training row's, in the same file or in a copy of it."""
    cuts: dict[Path, list[tuple[float, float]]] = {}
    for u in train:
        for path, cut in _cuts(u):
            cuts.setdefault(path, []).append(cut)
    held = [(u.row, _cuts(u)) for u in held_out]
    copies = _copies(set(cuts), {path for _, own in held for path, _ in own})
    return [
        str(row) for row, own in held
        if any(a < last and first < b for path, (first, last) in own for a, b in cuts.get(copies.get(path, path), ()))
    ]  # fmt: skip


def _cuts(u: Utterance) -> list[tuple[Path, tuple[float, float]]]:
    """The file of each of its recordings, from where to where in it; none of a dataset's."""
    if u.dataset is not None:
        return []
    rows = recordings_of(u.row)
    lengths = [u.duration_s] if len(rows) == 1 else [length_of(row) for row in rows]
    # neighbours that touch do not overlap
    return [
        (row.audio.resolve(), (row.start or 0.0, (row.start or 0.0) + length - 1e-3))
        for row, length in zip(rows, lengths, strict=True)
    ]


def _copies(train: set[Path], held: set[Path]) -> dict[Path, Path]:
    """Held-out files with the bytes of a training file; only files of equal size are read."""
    sizes: dict[int, list[Path]] = {}
    for path in train:
        sizes.setdefault(path.stat().st_size, []).append(path)
    found: dict[Path, Path] = {}
    for path in held - train:
        for other in sizes.get(path.stat().st_size, ()):
            if file_hash(path) == file_hash(other):
                found[path] = other
                break
    return found


def counts(utterances: Sequence[Utterance], column: str) -> dict[str, int]:
    """Rows by a column's value."""
    return dict(Counter(u.row.get(column) for u in utterances if u.row.get(column)))
