"""Hugging Face datasets as rows: on the hub or on disk, streamed if asked, audio decoded by soundfile."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from chorus.data.audio import RATE, info, read_audio
from chorus.data.manifest import SECOND, TEXTS, Row, asked_of, column_names, row_of, text_of
from chorus.errors import DataError, MissingExtraError
from chorus.plain import JsonMap

if TYPE_CHECKING:
    from datasets import Dataset

    from chorus.data.audio import Audio


def open_dataset(source: str, *, name: str | None, split: str, revision: str | None, streaming: bool) -> Dataset:
    """A split of a dataset, audio left encoded. A folder may hold `save_to_disk`'s files or plain data files."""
    try:
        import datasets
    except ImportError:
        raise MissingExtraError("train", "reading Hugging Face datasets") from None
    try:
        if (Path(source) / "dataset_dict.json").exists() or (Path(source) / "dataset_info.json").exists():
            found = datasets.load_from_disk(source)
            dataset = found[split] if isinstance(found, datasets.DatasetDict) else found
        else:
            dataset = datasets.load_dataset(source, name, split=split, revision=revision, streaming=streaming)
    except Exception as error:  # whatever datasets, its builders and the network find wrong
        raise DataError(f"dataset {source}: {error}", "check its name, configuration and split") from None
    features = getattr(dataset, "features", None) or {}
    for column, feature in features.items():
        if type(feature).__name__ == "Audio":
            # since version 4 datasets decodes by torchcodec, which needs FFmpeg's libraries; soundfile reads the same
            # bytes
            dataset = dataset.cast_column(column, datasets.Audio(decode=False))
    return dataset


class DatasetRows:
    """The rows of a dataset with columns named as a manifest's, each with its audio cell, which `decode` reads."""

    def __init__(self, dataset: Dataset, columns: Mapping[str, str], source: str) -> None:
        self.dataset, self.source = dataset, source
        # streams may not know their columns
        header = list(getattr(dataset, "features", None) or next(iter(dataset)).keys())
        self.names = column_names(header, columns, f"dataset {source}")
        if SECOND in (*header, *self.names):  # whose other recording would not be heard
            raise DataError(f"dataset {source}: pairs of recordings ({SECOND})", "write them as a manifest of files")
        if "text" not in self.names:
            raise DataError(
                f"dataset {source}: no column for the text; it has {', '.join(header)}", "map it: columns: {text: NAME}"
            )

    def __iter__(self) -> Iterator[tuple[Row, object]]:
        """Rows, each with what its audio column holds."""
        for line, record in enumerate(self.dataset, 1):
            yield self._row(record, line)

    def _row(self, record: JsonMap, line: int) -> tuple[Row, object]:
        value = record.get(self.names.get("path", ""))
        name = (value.get("path") if isinstance(value, Mapping) else value) or f"{self.source}#{line}"
        try:
            texts = {c: text_of(record.get(self.names[c], ""), c) for c in TEXTS if c in self.names and c != "path"}
        except ValueError as problem:
            raise DataError(f"dataset {self.source}: row {line}: {problem}", "mend it, or map another column") from None
        used = set(self.names.values())
        extra = {k: v for k, v in record.items() if k not in used and isinstance(v, str | int | float | bool)}
        extra |= asked_of(record, self.names)
        number = record.get(self.names.get("duration", ""))
        duration = float(number) if isinstance(number, int | float) else None
        numbers = {} if duration is None else {"duration": duration}
        return row_of({**texts, "path": str(name)}, numbers, extra=extra, line=line), value


def duration_s(value: object) -> float:
    """Seconds of a cell's audio, from its header where it is encoded."""
    if isinstance(value, Mapping):
        if value.get("bytes"):
            return info(bytes(value["bytes"])).duration_s
        if value.get("array") is not None:
            return len(value["array"]) / float(value["sampling_rate"])
        value = value.get("path")
    return info(Path(str(value))).duration_s if value else 0.0


def decode(value: object, rate: int = RATE) -> Audio:
    """The audio of a dataset's cell: encoded bytes, a path, or a decoded array with its rate."""
    import numpy as np

    from chorus.data.audio import resample

    if isinstance(value, Mapping):
        if value.get("bytes"):
            return read_audio(bytes(value["bytes"]), rate=rate)
        if value.get("array") is not None:
            return resample(np.asarray(value["array"], dtype=np.float32), value["sampling_rate"], rate)
        value = value.get("path")
    if not value:
        raise DataError("a row of the dataset has no audio", "map the audio: columns: {path: NAME}")
    return read_audio(Path(str(value)), rate=rate)
