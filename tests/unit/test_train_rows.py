"""Which rows a training gets: splits, filters, what is refused, what is left out and counted; order by counters."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import soundfile

from chorus.data.audio import RATE
from chorus.data.manifest import Row, write_manifest
from chorus.errors import DataError, RecipeError, UsageError
from chorus.train.examples import EpochSampler, changed, masked, stream
from chorus.train.layers import load_train_config
from chorus.train.rows import gather
from chorus.transcribe.test_sets import load_test_set
from sounds import again, corpus, tone


def config(train, **data):
    return load_train_config({"model": {"base": "b"}, "data": {"train": str(train), **data}})


def names(utterances):
    return [u.row.path for u in utterances]


def refused(settings, **more):
    with pytest.raises(DataError) as error:
        gather(settings, **more)
    return error.value


def test_splits_of_one_manifest(tmp_path):
    manifest, _ = corpus(tmp_path)
    found = gather(config(manifest, language="pt"))
    assert (len(found.train), len(found.dev), len(found.test)) == (8, 4, 0)
    assert found.train[0].duration_s == pytest.approx(0.6)
    assert found.train[0].row.language == "en"  # the row's own goes before data.language
    assert found.hours == pytest.approx(sum(u.duration_s for u in found.train) / 3600)
    assert list(found.hashes) == ["manifest.csv"]


def test_manifests_of_one_name_are_all_known(tmp_path):
    first, second = (str(corpus(tmp_path / name, count)[0]) for name, count in (("a", 12), ("b", 6)))
    found = gather(load_train_config({"model": {"base": "b"}, "data": {"train": [first, second]}}), allow_leakage=True)
    assert list(found.hashes) == ["manifest.csv", "manifest.csv (2)"]
    assert len(found.train) == 12


def test_a_manifest_without_splits_is_all_training(tmp_path):
    _, rows = corpus(tmp_path)
    manifest = write_manifest([Row(r.path, r.text, root=r.root) for r in rows], tmp_path / "plain.csv")
    found = gather(config(manifest))
    assert (len(found.train), len(found.dev)) == (12, 0)
    val = write_manifest([Row(r.path, r.text, root=r.root) for r in rows[:3]], tmp_path / "val.csv")
    assert len(gather(config(manifest, dev=str(val)), allow_leakage=True).dev) == 3


def test_rows_can_be_chosen(tmp_path):
    manifest, _ = corpus(tmp_path)
    chosen = {"manifest": str(manifest), "where": {"speaker": ["s0", "s1"]}, "limit": 3}
    found = gather(load_train_config({"model": {"base": "b"}, "data": {"train": chosen}}))
    assert {u.row.speaker for u in found.train} == {"s0", "s1"}
    assert len(found.train) == 3
    nobody = load_train_config({"model": {"base": "b"}, "data": {"train": {**chosen, "where": {"speaker": "s9"}}}})
    assert "none of its 12 rows is left (split train, speaker s9)" in refused(nobody).message


def test_bad_rows_are_named_and_left_out_only_when_asked(tmp_path):
    _, rows = corpus(tmp_path)
    (tmp_path / "text.flac").write_text("no")
    bad = [
        Row("none.wav", "x", "en", split="train", root=tmp_path),
        Row("text.flac", "x", "en", split="train", root=tmp_path),
        Row(rows[0].path, "", "en", split="train", root=tmp_path),
        Row(rows[0].path, "x", "en", split="dev", start=8.0, end=9.0, root=tmp_path),
    ]
    manifest = write_manifest([*rows, *bad], tmp_path / "bad.csv")
    told = refused(config(manifest))
    for part in (
        "1 missing audio files: none.wav",
        "1 unreadable audio files: text.flac: ",
        "1 empty transcripts: audio/000",
    ):
        assert part in told.message
    assert "--skip-bad" in told.hint
    found = gather(config(manifest), skip_bad=True)
    assert (len(found.train), len(found.dev)) == (8, 4)
    assert {k.split(":")[0]: len(v) for k, v in found.left_out.items()} == {
        "missing audio files": 1,
        "unreadable audio files": 1,
        "empty transcripts": 1,
        "cuts behind the end of their file": 1,
    }


def test_rows_of_other_lengths_are_left_out_and_counted(tmp_path):
    manifest, rows = corpus(tmp_path)
    soundfile.write(tmp_path / "long.wav", tone(4.0), RATE)
    manifest = write_manifest([*rows, Row("long.wav", "x", "en", split="train", root=tmp_path)], tmp_path / "m.csv")
    found = gather(config(manifest, min_duration_s=0.62, max_duration_s=3.0))
    assert found.left_out == {"shorter than 0.62 s": names_shorter(rows), "longer than 3 s": ["long.wav"]}
    assert "no training rows are left" in refused(config(manifest, max_duration_s=0.2)).message


def names_shorter(rows):
    short = [r.path for i, r in enumerate(rows) if i % 4 == 0]
    return [n for n in short if n < "audio/008.flac"] + [n for n in short if n >= "audio/008.flac"]


@pytest.mark.parametrize("role", ["dev", "test"])
def test_recordings_on_both_sides_are_refused(tmp_path, role):
    _, rows = corpus(tmp_path)
    (tmp_path / "copy.flac").write_bytes(rows[1].audio.read_bytes())
    held = write_manifest(
        [Row(rows[0].path, "x", "en", root=tmp_path), Row("copy.flac", "y", "en", root=tmp_path)], tmp_path / "held.csv"
    )
    settings = config(tmp_path / "manifest.csv", **{role: str(held)})
    told = refused(settings)
    assert f"2 {role} recordings are in the training data: audio/000.flac, copy.flac" in told.message
    assert "--allow-leakage" in told.hint
    assert len(getattr(gather(settings, allow_leakage=True), role)) == 2


def test_cuts_of_one_file_leak_only_where_they_overlap(tmp_path):
    soundfile.write(tmp_path / "long.wav", tone(4.0), RATE)

    def row(split, start, end):
        return Row("long.wav", "x", "en", split=split, start=start, end=end, root=tmp_path)

    apart = write_manifest([row("train", 0, 1), row("dev", 1, 2)], tmp_path / "a.csv")
    assert len(gather(config(apart)).dev) == 1
    crossing = write_manifest([row("train", 0, 1.5), row("dev", 1, 2)], tmp_path / "b.csv")
    assert "long.wav [1 to 2 s]" in refused(config(crossing)).message


def test_the_other_recording_of_a_pair_leaks_too(tmp_path):
    for name in ("a", "b", "c", "d"):
        soundfile.write(tmp_path / f"{name}.wav", tone(1.0, seed=ord(name)), RATE)
    (tmp_path / "copy.wav").write_bytes((tmp_path / "b.wav").read_bytes())

    def row(split, first, second, **cut):
        extra = {"audio_2": f"{second}.wav", **{k: str(v) for k, v in cut.items()}}
        return Row(f"{first}.wav", "yes", "en", split=split, extra=extra, root=tmp_path)

    apart = [row("train", "a", "b", start_2=0, end_2=0.5), row("dev", "c", "b", start_2=0.5, end_2=1)]
    assert len(gather(config(write_manifest(apart, tmp_path / "apart.csv"))).dev) == 1
    for name, held in (
        ("second", row("dev", "c", "b")),
        ("first", row("dev", "b", "c")),
        ("copy", row("dev", "c", "copy")),
    ):
        shared = write_manifest([row("train", "a", "b", start_2=0, end_2=0.5), held], tmp_path / f"{name}.csv")
        assert "1 dev recordings are in the training data" in refused(config(shared)).message


@pytest.mark.parametrize(
    ("second", "told"),
    [
        ("empty.wav", "1 audio files without samples: empty.wav (second recording of a.wav, task speaker_ver)"),
        ("none.wav", "1 missing audio files: none.wav (second recording of a.wav, task speaker_ver)"),
        ("text.wav", "1 unreadable audio files: text.wav (second recording of a.wav, task speaker_ver): "),
    ],
)
def test_of_a_pair_the_second_recording_is_named_where_it_is_the_bad_one(tmp_path, second, told):
    soundfile.write(tmp_path / "a.wav", tone(1.0), RATE)
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), RATE)
    (tmp_path / "text.wav").write_text("no")
    pair = {"audio_2": second, "answer": "yes"}
    manifest = write_manifest([Row("a.wav", extra=pair, root=tmp_path)], tmp_path / "m.csv")
    settings = {"model": {"base": "b"}, "task": "speaker_ver", "data": {"train": str(manifest)}}
    assert refused(load_train_config(settings)).message.startswith(told)
    with pytest.raises(DataError) as caught:
        load_test_set([manifest], task="speaker_ver")
    assert f"{second}" in caught.value.message.splitlines()[1]
    assert second != "empty.wav" or "(second recording of a.wav, task speaker_ver): no audio" in caught.value.message
    # the first is still blamed for its own fault
    turned = Row(second, extra={**pair, "audio_2": "a.wav"}, root=tmp_path)
    settings["data"]["train"] = str(write_manifest([turned], tmp_path / "n.csv"))
    assert f": {second}" in refused(load_train_config(settings)).message
    assert "second recording" not in refused(load_train_config(settings)).message


def test_one_manifest_is_learnt_as_several_tasks(tmp_path):
    _, rows = corpus(tmp_path, 6)
    plain = [Row(r.path, "", "en", speaker=f"s{i % 2}", extra={"keyword": ("on", "off")[i % 2]}, root=tmp_path)
             for i, r in enumerate(rows)]  # fmt: skip
    manifest = str(write_manifest(plain, tmp_path / "words.csv"))
    sources = [{"manifest": manifest, "task": task} for task in ("keyword", "speaker-identification")]
    found = gather(load_train_config({"model": {"base": "b"}, "data": {"train": sources}}))
    assert [(u.row.get("task"), u.row.text) for u in found.train[::6]] == [("kws", "on"), ("speaker_id", "s0")]
    assert {u.row.get("choices") for u in found.train} == {'["off", "on"]', '["s0", "s1"]'}


def test_rows_of_other_tasks_and_of_one_answer_are_told(tmp_path):
    _, rows = corpus(tmp_path, 6)
    mixed = [Row(r.path, "on", "en", extra={"task": ("kws", "asr")[i % 2]}, root=tmp_path) for i, r in enumerate(rows)]
    given = {"model": {"base": "b"}, "task": "kws", "data": {"train": str(write_manifest(mixed, tmp_path / "m.csv"))}}
    with pytest.raises(DataError, match="one choice alone"):
        gather(load_train_config(given))
    more = [*mixed, Row(rows[0].path, "off", "en", split="test", extra={"task": "kws"}, root=tmp_path)]
    mixed = [replace(row, split=row.split or "train") for row in more]
    given["data"]["train"] = str(write_manifest(mixed, tmp_path / "n.csv"))
    notes = gather(load_train_config(given)).notes
    assert "kws 3, asr 3" in notes[0]
    assert notes[1] == "task kws: all 3 rows have the one answer 'on'"


def asked(rows, place, **columns):
    """A manifest of `custom`: the first row says what `columns` say in place of what the others say."""
    usual = {"instruction": "Is it loud?", "answer": "yes", "choices": "yes|no", "question": "Is it loud?"}
    each = [usual | (columns if i == 0 else {}) for i in range(len(rows))]
    plain = [replace(row, path=str(row.audio), text="", extra=each[i]) for i, row in enumerate(rows)]
    return write_manifest(plain, place)


@pytest.mark.parametrize(
    ("task", "columns", "told"),
    [
        ("custom", {"instruction": ""}, "no instruction"),
        ("speech_qa", {"question": " "}, "no question"),
        ("custom", {"answer": "maybe"}, "its answer ... is none of its choices"),
        ("custom", {"answer": "yes", "choices": "yes"}, "one choice alone"),
    ],
)
def test_a_row_that_cannot_be_asked_or_answered_is_refused_or_left_out_by_its_reason(tmp_path, task, columns, told):
    _, rows = corpus(tmp_path)
    manifest = asked(rows[1:], tmp_path / "asked.csv", **columns)
    name = str(rows[1].audio.relative_to(tmp_path))
    settings = load_train_config({"model": {"base": "b"}, "task": task, "data": {"train": str(manifest)}})
    error = refused(settings)
    assert error.message.startswith(f"{name}: task {task}: {told.partition(' ...')[0]}")
    assert "--skip-bad" in error.hint
    found = gather(settings, skip_bad=True)
    assert len(found.train) + len(found.dev) + len(found.test) == len(rows) - 2
    assert {why: len(names) for why, names in found.left_out.items()} == {f"task {task}: {told}": 1}


def test_where_no_row_can_be_asked_it_is_said_that_none_is_left_and_why(tmp_path):
    _, rows = corpus(tmp_path, 3)
    settings = {"model": {"base": "b"}, "task": "custom", "data": {"train": str(asked(rows[:1], tmp_path / "a.csv",
                instruction=""))}}  # fmt: skip
    with pytest.raises(DataError, match="no training rows are left of 1; 1 task custom: no instruction"):
        gather(load_train_config(settings), skip_bad=True)
    # a question of the configuration's, or of the row's, is asked in place of it
    settings["data"]["prompt"] = "Is it loud?"
    assert len(gather(load_train_config(settings)).train) == 1


def test_a_source_takes_the_rows_of_its_task_alone(tmp_path):
    _, rows = corpus(tmp_path, 6)
    mixed = [Row(r.path, f"w{i % 2}", "en", extra={"task": ("kws", "asr", "")[i % 3]}, root=tmp_path)
             for i, r in enumerate(rows)]  # fmt: skip
    manifest = str(write_manifest(mixed, tmp_path / "mixed.csv"))
    settings = load_train_config({"model": {"base": "b"}, "data": {"train": {"manifest": manifest, "task": "kws"}}})
    assert [u.row.path for u in gather(settings).train] == [r.path for i, r in enumerate(rows) if i % 3 != 1]
    with pytest.raises(UsageError, match="unknown task"):
        load_train_config({"model": {"base": "b"}, "data": {"train": {"manifest": manifest, "task": "kwz"}}})


def test_a_manifest_without_the_columns(tmp_path):
    (tmp_path / "m.csv").write_text("path,words\na.wav,x\n")
    assert "no column text" in refused(config(tmp_path / "m.csv")).message
    with pytest.raises(UsageError):
        gather(
            load_train_config(
                {
                    "model": {"base": "b"},
                    "data": {"train": {"manifest": str(tmp_path / "m.csv"), "columns": {"txt": "words"}}},
                }
            )
        )


def test_hugging_face_datasets_on_disk_and_streamed(tmp_path):
    datasets = pytest.importorskip("datasets", reason='needs pip install "chorus-merge[train]"')
    from chorus.data.hub import DatasetRows, decode, open_dataset

    _, rows = corpus(tmp_path, 6)
    records = {
        "audio": [str(r.audio) for r in rows],
        "sentence": [r.text for r in rows],
        "locale": ["pt"] * 6,
        "gender": ["f"] * 6,
    }
    dataset = datasets.Dataset.from_dict(records).cast_column("audio", datasets.Audio())
    datasets.DatasetDict({"train": dataset}).save_to_disk(str(tmp_path / "saved"))
    source = {"dataset": str(tmp_path / "saved"), "where": {"gender": "f"}, "limit": 4}
    settings = load_train_config({"model": {"base": "b"}, "data": {"train": source}})
    found = gather(settings)
    assert [(u.row.text, u.row.language) for u in found.train] == [(r.text, "pt") for r in rows[:4]]
    expected, _ = soundfile.read(rows[2].audio, dtype="float32")
    assert np.array_equal(found.train[2].audio(), expected)
    assert found.train[0].key() != found.train[1].key()
    streamed = open_dataset(str(tmp_path / "saved"), name=None, split="train", revision=None, streaming=False)
    assert [r.text for r, _ in DatasetRows(streamed.to_iterable_dataset(), {}, "x")] == [r.text for r in rows]
    assert decode({"array": expected, "sampling_rate": 8000}).shape[0] == pytest.approx(2 * len(expected), abs=2)
    mixed = load_train_config(
        {"model": {"base": "b"}, "data": {"train": {**source, "streaming": True}, "mix": {"temperature": 2}}}
    )
    with pytest.raises(RecipeError, match="a streamed dataset is not mixed"):
        gather(mixed)
    (tmp_path / "none.flac").write_text("no audio")
    broken = {**records, "audio": [str(tmp_path / "none.flac"), *records["audio"][1:]]}
    datasets.Dataset.from_dict(broken).cast_column("audio", datasets.Audio()).save_to_disk(str(tmp_path / "broken"))
    settings = load_train_config({"model": {"base": "b"}, "data": {"train": {"dataset": str(tmp_path / "broken")}}})
    assert "1 dataset rows without readable audio" in refused(settings).message
    assert len(gather(settings, skip_bad=True).train) == 5
    (tmp_path / "data").mkdir()
    lines = [{"audio": str(r.audio), "text": f"{i}"} for i, r in enumerate(rows)]
    (tmp_path / "data" / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    source = {"dataset": str(tmp_path / "data"), "split": "train", "streaming": True, "limit": 5, "language": "pt"}
    stream_ = gather(load_train_config({"model": {"base": "b"}, "data": {"train": source, "dev": []}})).stream
    orders = []
    for epoch in (0, 1, 0):
        stream_.set_epoch(epoch)
        orders.append([row.text for row, _ in stream_])
    assert orders[0] == orders[2] != orders[1]
    assert len(orders[0]) == 5
    assert {row.language for row, _ in stream_} == {"pt"}
    with pytest.raises(DataError, match='no column "sentense"; did you mean "sentence"'):
        DatasetRows(dataset, {"text": "sentense"}, "x")
    with pytest.raises(DataError, match=r"dataset .*nowhere"):
        open_dataset(str(tmp_path / "nowhere"), name=None, split="train", revision=None, streaming=False)


# ---- order and changes ----


@pytest.mark.parametrize("by_length", [False, True])
def test_every_row_comes_once_an_epoch_in_an_order_of_its_own(by_length):
    lengths = list(np.random.default_rng(0).uniform(1, 10, 1003))
    sampler = EpochSampler(lengths, 8, 5, by_length=by_length)
    epochs = []
    for epoch in range(2):
        sampler.set_epoch(epoch)
        drawn = list(sampler)
        assert {e for e, _ in drawn} == {epoch}
        assert sorted(i for _, i in drawn) == list(range(1003))
        assert drawn == list(sampler)
        epochs.append([i for _, i in drawn])
    assert epochs[0] != epochs[1]
    if by_length:
        whole = [epochs[0][i : i + 8] for i in range(0, 1000, 8)]
        spread = np.mean([np.ptp([lengths[i] for i in batch]) for batch in whole])
        assert spread < 1.0  # of nine seconds


def test_changes_are_drawn_by_seed_epoch_and_row(tmp_path):
    augment = load_train_config(
        {"model": {"base": "b"}, "data": {"train": "m.csv"},
         "augment": {"speed": [0.8, 1.2], "noise": 1, "gain_db": [-6, 6], "shift_s": 0.2, "codec": 0.5}}
    ).augment  # fmt: skip
    audio = tone(0.5)
    first = changed(audio, augment, stream(1, 2, 3))
    assert np.array_equal(first, changed(audio, augment, stream(1, 2, 3)))
    for other in ((2, 2, 3), (1, 3, 3), (1, 2, 4)):
        assert not np.array_equal(first[:100], changed(audio, augment, stream(*other))[:100])


def test_masks_cover_bands_and_leave_the_original(tmp_path):
    settings = {"mask_features": 2, "mask_feature_width": 8, "mask_times": 1, "mask_time_width": 20}
    augment = load_train_config({"model": {"base": "b"}, "data": {"train": "m"}, "augment": settings}).augment
    features = np.random.default_rng(0).normal(size=(80, 100)).astype(np.float32)
    before = features.copy()
    found = masked(features, augment, stream(0, 0, 1))
    assert np.array_equal(features, before)
    hidden = found == features.min()
    assert 0 < hidden.sum() <= 2 * 8 * 100 + 20 * 80
    assert np.array_equal(found[~hidden], features[~hidden])
    assert (
        masked(features, load_train_config({"model": {"base": "b"}, "data": {"train": "m"}}).augment, stream(0, 0, 1))
        is features
    )


def test_the_manifest_may_change_one_row(tmp_path):
    _, rows = corpus(tmp_path)
    assert gather(config(again(tmp_path, rows, "n.csv", text="seven"))).train[0].row.text == "seven"
