"""Many trainings at once, with children that are told what to do: order, devices, failures, Ctrl-C; and resuming."""

from __future__ import annotations

import io
import json
import os
import signal
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chorus.data.manifest import Row, manifest_text, write_manifest
from chorus.errors import CheckpointError, ChorusError, DataError, OutputError, UsageError
from chorus.train import campaign, processes, resume
from chorus.train.campaign import run_jobs
from chorus.train.checkpoints import mark_whole
from chorus.train.jobs import Job, _part, plan_jobs, walked_column
from chorus.train.layers import lay_over, load_train_config
from chorus.train.rows import TrainingRows, _load
from sounds import corpus, tiny


def config_of(output, **more):
    document = {"model": {"base": "b"}, "data": {"train": "m.csv"}, "output": str(output / "out"),
                "logs": str(output / "logs"), "device": "cpu"}  # fmt: skip
    return load_train_config({**document, **more})


class Child:
    """A training that ends as it is told, when it is let."""

    def __init__(self, code=0, out="{}", told=(), gate=None):
        self.code, self.gate = code, gate
        self.stdout, self.stderr = io.StringIO(out), io.StringIO("".join(f"{line}\n" for line in told))
        self.returncode = None
        self.ended = False

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.wait()

    def wait(self):
        if self.gate is not None:
            assert self.gate.wait(10)
        self.returncode = self.code
        return self.code

    def poll(self):
        return self.returncode

    def terminate(self):
        self.ended = True
        if self.gate is not None:
            self.gate.set()


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Where the campaign writes; no process that forks, and children from a table of names."""
    monkeypatch.setattr(campaign, "_may_fork", lambda config: False)
    return tmp_path


@pytest.fixture
def children(monkeypatch):
    """What each job's child does (a function that makes it), and what it was started with."""
    table, started = {}, []

    def start(arguments, environment, warm):
        name = Path(arguments[1]).stem
        started.append((name, arguments, environment))
        return table.get(name, Child)()

    monkeypatch.setattr(campaign, "_start", start)
    return table, started


def jobs_in(place, *names, after=None, device="cpu"):
    made = []
    for name in names:
        config = config_of(place, device=device)
        config = config.model_copy(update={"output": str(place / "out" / name), "logs": str(place / "logs" / name)})
        made.append(Job(name, config, (after or {}).get(name)))
    return made


# ---- what is started ----


def test_results_come_in_the_order_of_the_jobs(place, children):
    table, _ = children
    gate = threading.Event()
    table["a"] = lambda: Child(out='{"name": "a"}', gate=gate)
    table["b"] = lambda: (gate.set(), Child(out='{"name": "b"}'))[1]
    ended = []
    found = run_jobs(jobs_in(place, "a", "b"), parallel=2, ended=lambda job: ended.append(job.name))
    assert [r["name"] for r in found] == ["a", "b"]
    assert sorted(ended) == ["a", "b"]


def test_each_has_a_configuration_of_its_own_and_the_flags(place, children):
    _, started = children
    run_jobs(jobs_in(place, "a"), settings={"skip_bad": True, "overwrite": True, "restart": False, "quiet": True})
    ((_, arguments, _),) = started
    assert arguments == ["train", str(place / "logs" / "a.yaml"), "--json", "--skip-bad", "--overwrite", "--quiet"]
    assert load_train_config(arguments[1]) == jobs_in(place, "a")[0].config


def test_the_cores_are_shared_and_a_number_of_threads_that_is_set_is_kept(place, children, monkeypatch):
    _, started = children
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(campaign, "cores", lambda: 8)
    run_jobs(jobs_in(place, "a", "b"), parallel=3)
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    run_jobs(jobs_in(place, "c"), parallel=3)
    assert [environment["OMP_NUM_THREADS"] for _, _, environment in sorted(started)] == ["2", "2", "5"]


def test_each_gpu_takes_one_training_at_a_time(place, children, monkeypatch):
    table, started = children
    monkeypatch.setattr(campaign, "_devices", lambda: ["3", "5"])
    running, most, lock = {}, [], threading.Lock()

    class Counted(Child):
        def __init__(self, device):
            super().__init__()
            self.device = device

        def wait(self):
            with lock:
                running[self.device] = running.get(self.device, 0) - 1
            return super().wait()

    def start(arguments, environment, warm):
        device = environment["CUDA_VISIBLE_DEVICES"]
        with lock:
            running[device] = running.get(device, 0) + 1
            most.append(dict(running))
        started.append(device)
        return Counted(device)

    monkeypatch.setattr(campaign, "_start", start)
    run_jobs(jobs_in(place, *"abcdefg", device="auto"))
    assert set(started) == {"3", "5"}
    assert len(started) == 7
    assert max(n for state in most for n in state.values()) == 1
    assert table == {}


def test_gpus_are_those_that_this_process_may_use(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert campaign._devices() == ["0", "1", "2"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-abc")
    assert campaign._devices() == ["4", "GPU-abc"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert campaign._devices() == []


def test_one_process_serves_all_forks_and_is_closed(tmp_path, children, monkeypatch):
    made, closed = [], []

    class Warm:
        def __init__(self, environment):
            made.append(environment["OMP_NUM_THREADS"])

        def close(self):
            closed.append(True)

    monkeypatch.setattr(campaign, "WarmProcess", Warm)
    monkeypatch.setattr(campaign, "_may_fork", lambda config: True)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    run_jobs(jobs_in(tmp_path, "a", "b", "c"))
    assert (made, closed) == (["1"], [True])
    run_jobs(jobs_in(tmp_path, "a"))  # one training imports for itself
    assert made == ["1"]


# ---- failures ----


def test_a_failure_stops_no_other_and_all_are_named(place, children):
    table, _ = children
    table["a"] = lambda: Child(4, told=["reading", "error: the disk is full", "  hint: make room"])
    table["c"] = lambda: Child(-9)
    ended, notes = [], []
    with pytest.raises(ChorusError) as caught:
        run_jobs(jobs_in(place, "a", "b", "c"), ended=lambda job: ended.append(job.name), note=notes.append)
    told = str(caught.value)
    assert "2 of 3 trainings failed" in told
    assert "  a: the disk is full hint: make room (exit code 4)" in told
    assert "  c: exit code -9 (exit code -9)" in told
    assert "the others are kept" in caught.value.hint
    assert ended == ["b"]
    assert "a: reading" in notes


def test_the_last_words_serve_where_no_error_was_told(place, children):
    table, _ = children
    table["a"] = lambda: Child(1, told=["Traceback", "ValueError: odd"])
    with pytest.raises(ChorusError, match="ValueError: odd"):
        run_jobs(jobs_in(place, "a"))


def test_what_waits_for_a_failed_one_fails_with_it(place, children):
    table, started = children
    table["first"] = lambda: Child(4, told=["error: no"])
    jobs = jobs_in(place, "first", "second", "third", after={"second": "first", "third": "second"})
    with pytest.raises(ChorusError, match="3 of 3") as caught:
        run_jobs(jobs, parallel=3)
    assert "second: first before it failed" in str(caught.value)
    assert "third: second before it failed" in str(caught.value)
    assert [name for name, _, _ in started] == ["first"]


def test_one_after_another_waits_for_the_one_before(place, children):
    _, started = children
    run_jobs(jobs_in(place, "c", "b", "a", after={"c": "b", "b": "a"}), parallel=3)
    assert [name for name, _, _ in started] == ["a", "b", "c"]


@pytest.mark.parametrize("code", [campaign.INTERRUPTED, -signal.SIGINT])
def test_ctrl_c_in_a_training_is_the_campaigns_and_nothing_more_is_begun(place, children, monkeypatch, code):
    table, started = children
    monkeypatch.setattr(campaign, "GRACE_S", 0.0)
    table["a"] = lambda: Child(code, told=["interrupted"])
    with pytest.raises(KeyboardInterrupt):
        run_jobs(jobs_in(place, "a", "b", "c"), parallel=1)
    assert [name for name, _, _ in started] == ["a"]


def test_trainings_that_do_not_end_by_themselves_are_ended(monkeypatch):
    monkeypatch.setattr(campaign, "GRACE_S", 0.05)
    gone, deaf = Child(), Child(gate=threading.Event())
    gone.wait()
    campaign._end({gone, deaf})
    assert deaf.ended


# ---- what is planned ----


@pytest.fixture
def config(tmp_path):
    manifest, _ = corpus(tmp_path / "speech", 12)
    base = tiny(tmp_path / "base", "wav2vec2")
    document = {"model": {"base": str(base)}, "data": {"train": str(manifest)}, "output": "out", "logs": "logs"}
    return load_train_config({**document, "device": "cuda:1"})


def test_a_specialist_for_each_value_and_one_for_all(config):
    jobs = plan_jobs(config, each="domain", joint=True)
    assert [(j.name, j.config.output, j.config.logs, j.after) for j in jobs] == [
        ("d0", "out/d0", "logs/d0", None), ("d1", "out/d1", "logs/d1", None), ("joint", "out/joint", "logs/joint", None)
    ]  # fmt: skip
    assert [j.config.data.train[0].where for j in jobs] == [{"domain": "d0"}, {"domain": "d1"}, {}]
    assert {j.config.device for j in jobs} == {"cuda"}


def test_the_chosen_values_come_in_their_own_order_and_make_the_joint_one(config):
    jobs = plan_jobs(config, each="speaker", joint=True, only=["s2", "s0"])
    assert [j.name for j in jobs] == ["s2", "s0", "joint"]
    assert jobs[2].config.data.train[0].where == {"speaker": ["s2", "s0"]}


def manifests(place, **rows):
    """A manifest for each name, of rows (domain, language); the recordings are never opened."""
    for name, members in rows.items():
        made = [
            Row(f"{name}{i}.wav", "x", language, domain=domain, root=place)
            for i, (domain, language) in enumerate(members)
        ]
        write_manifest(made, place / f"{name}.csv")


def planned(place, sources, column="domain", **more):
    data = {"train": [{**s, "manifest": str(place / f"{s['manifest']}.csv")} for s in sources], **more}
    if "dev" in data:
        data["dev"] = [{**s, "manifest": str(place / f"{s['manifest']}.csv")} for s in data["dev"]]
    jobs = plan_jobs(config_of(place, data=data), each=column, joint=True)
    return {job.name: [(Path(s.manifest).stem, s.where) for s in job.config.data.train] for job in jobs}, jobs


def rows_of(job):
    return [
        u.row.path for s in job.config.data.train for u in _load([s], "train", job.config, TrainingRows([], [], []), ())
    ]


def test_one_manifest_a_domain(tmp_path):
    """Sources that have no row of a value are left out of its training, whatever tells the domain."""
    manifests(tmp_path, a=[("red", "en")] * 2, b=[("blue", "en")], c=[("", "en"), ("red", "en")])
    found, jobs = planned(tmp_path, [{"manifest": "a"}, {"manifest": "b"}, {"manifest": "c", "domain": "green"}])
    assert found == {
        "red": [("a", {"domain": "red"}), ("c", {"domain": "red"})], "blue": [("b", {"domain": "blue"})],
        "green": [("c", {"domain": ""})], "joint": [("a", {}), ("b", {}), ("c", {})],
    }  # fmt: skip
    assert [len(rows_of(job)) for job in jobs] == [3, 1, 1, 5]


def test_what_a_source_leaves_out_stays_out(tmp_path):
    manifests(tmp_path, a=[("red", "pt-BR"), ("red", "pt-PT"), ("blue", "en"), ("green", "en")])
    where = {"manifest": "a", "where": {"domain": ["red", "blue"], "language": ["pt-BR", "en"]}}
    found, jobs = planned(tmp_path, [where])
    assert {name: [w["domain"] for _, w in sources] for name, sources in found.items()} == {
        "red": ["red"], "blue": ["blue"], "joint": [["red", "blue"]]
    }  # fmt: skip
    assert [len(rows_of(job)) for job in jobs] == [1, 1, 2]
    found, jobs = planned(tmp_path, [where], "language")
    assert list(found) == ["pt-BR", "en", "joint"]
    assert [len(rows_of(job)) for job in jobs] == [1, 1, 2]


def test_a_language_has_one_specialist_whatever_its_rows_call_it(tmp_path):
    manifests(tmp_path, a=[("", "pt"), ("", "Portuguese"), ("", "pt-BR")], b=[("", "sv-SE"), ("", "")])
    found, jobs = planned(tmp_path, [{"manifest": "a"}, {"manifest": "b"}], "language", language="de")
    assert sorted(found) == ["de", "joint", "pt", "sv-SE"]
    assert {job.name: len(rows_of(job)) for job in jobs} == {"pt": 3, "sv-SE": 1, "de": 1, "joint": 5}


def test_dev_sources_are_divided_too(tmp_path):
    manifests(tmp_path, a=[("red", "en")], b=[("blue", "en")], held=[("red", "en")])
    _, jobs = planned(tmp_path, [{"manifest": "a"}, {"manifest": "b"}], dev=[{"manifest": "held"}])
    assert [len(job.config.data.dev) for job in jobs] == [1, 0, 1]


def test_one_domain_after_another_starts_from_what_the_last_one_left(config):
    jobs = plan_jobs(config, continual="domain")
    assert [(j.name, j.after) for j in jobs] == [("continual-1-d0", None), ("continual", "continual-1-d0")]
    assert jobs[1].config.model.base == jobs[0].config.output_dir
    assert jobs[1].config.model.adapter is None


def test_where_rows_name_several_tasks_one_is_taught_after_another_with_no_column_named(tmp_path):
    """Also where no row has a text: labels stand in columns of their own."""
    rows = [Row(f"{i}.wav", root=tmp_path, extra={"task": t, "label": "x"}) for i, t in enumerate(("kws", "emotion"))]
    (tmp_path / "m.csv").write_text(manifest_text(rows, tmp_path / "m.csv").replace("path,text,", "path,words,"))
    config = config_of(tmp_path, data={"train": str(tmp_path / "m.csv")})
    assert walked_column(config) == "task"
    jobs = plan_jobs(config, continual=walked_column(config))
    assert [(job.name, job.config.task) for job in jobs] == [("continual-1-kws", "kws"), ("continual", "emotion")]
    manifests(tmp_path, one=[("red", "en"), ("blue", "en")])
    assert walked_column(config_of(tmp_path, data={"train": str(tmp_path / "one.csv")})) == "domain"
    # a source may say it in place of the rows
    said = [{"manifest": str(tmp_path / "one.csv"), "task": task} for task in ("kws", "speaker_id")]
    assert walked_column(config_of(tmp_path, data={"train": said})) == "task"


def test_adapters_are_trained_further_on_the_same_base(config):
    with_adapter = load_train_config(config.model_dump(mode="json"), overrides=["adapter.rank=2"])
    jobs = plan_jobs(with_adapter, continual="speaker")
    assert [j.config.model.base for j in jobs] == [config.model.base] * 3
    assert [j.config.model.adapter for j in jobs] == [None, jobs[0].config.output_dir, jobs[1].config.output_dir]


@pytest.mark.parametrize(
    ("asked", "kind", "told"),
    [
        ({"each": "speker"}, DataError, 'no training row has the column "speker"; did you mean "speaker"'),
        ({"each": "domain", "only": ["d3"]}, UsageError, 'no training row has domain "d3"'),
        ({"continual": "nothing"}, DataError, 'the column "nothing"; known: domain, language, speaker'),
    ],
)
def test_plans_that_cannot_be(config, asked, kind, told):
    with pytest.raises(kind, match=told):
        plan_jobs(config, **asked)


@pytest.mark.parametrize(
    ("name", "safe"), [("a b/c", "a_b_c"), ("..", "_"), ("pt-BR_1.5", "pt-BR_1.5"), ("/etc", "_etc"), ("São", "São")]
)
def test_no_value_leads_out_of_the_folder(config, name, safe):
    made = _part(config, name, config.data)
    assert (made.output, made.logs) == (f"out/{safe}", f"logs/{safe}")


# ---- which process this is ----


def test_alone_this_is_the_main_process_and_nobody_waits(monkeypatch):
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert processes.is_main()
    assert processes.count() == 1
    monkeypatch.setitem(sys.modules, "accelerate", None)  # is not asked
    with processes.main_first("cpu"):
        pass


def test_launchers_tell_which_of_several_it_is(monkeypatch):
    monkeypatch.setitem(os.environ, "RANK", "1")
    monkeypatch.setitem(os.environ, "WORLD_SIZE", "4")
    assert not processes.is_main()
    assert processes.count() == 4


# ---- resuming ----


def test_a_folder_is_free_finished_or_in_the_way(tmp_path):
    place = tmp_path / "out"
    assert resume.finished(place, "mine", overwrite=False) is None
    place.mkdir()
    assert resume.finished(place, "mine", overwrite=False) is None
    (place / "chorus.json").write_text(json.dumps({"fingerprint": "mine", "steps": 3}))
    assert resume.finished(place, "mine", overwrite=False)["steps"] == 3
    assert resume.finished(place, "mine", overwrite=True) is None
    with pytest.raises(OutputError, match="other settings or data"):
        resume.finished(place, "another", overwrite=False)
    (place / "chorus.json").unlink()
    (place / "thesis.txt").write_text("mine")
    with pytest.raises(OutputError, match="holds something else"):
        resume.finished(place, "mine", overwrite=False)


def test_a_campaigns_results_are_not_taken_away_by_a_training_of_its_name(tmp_path):
    (tmp_path / "d0").mkdir()
    (tmp_path / "d0" / "chorus.json").write_text("{}")
    for overwrite in (False, True):
        with pytest.raises(OutputError, match=r"holds other results \(d0\)"):
            resume.finished(tmp_path, "mine", overwrite=overwrite)


def test_tidying_takes_what_resuming_needs_and_nothing_else(tmp_path):
    for name in ("checkpoint-3", "checkpoint-10", resume.INITIAL, "other"):
        (tmp_path / name).mkdir()
    for name in (resume.START, "history.jsonl"):
        (tmp_path / name).write_text("")
    resume.tidy(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"other", "history.jsonl"}


def checkpoint(logs, step, mark=None):
    place = logs / f"checkpoint-{step}"
    place.mkdir(parents=True)
    if mark is not None:
        (place / "weights").write_bytes(bytes(100))
        mark_whole(place, step, mark)
    return place


def test_the_last_whole_checkpoint_is_gone_on_from(tmp_path):
    checkpoint(tmp_path, 3, "mine")
    wanted = checkpoint(tmp_path, 12, "mine")
    broken = checkpoint(tmp_path, 15)
    assert resume.resume_point(tmp_path, "mine", restart=False) == wanted
    assert not broken.exists()
    with pytest.raises(OutputError, match="belong to a training with other settings"):
        resume.resume_point(tmp_path, "another", restart=False)
    assert resume.resume_point(tmp_path, "another", restart=True) is None
    assert not wanted.exists()


@pytest.mark.parametrize(
    ("name", "change"),
    [("weights", bytearray(b"\x01") + bytes(99)), ("weights", b""), ("whole.json", b"{}"), ("whole.json", b"[" * 5000),
     ("whole.json", b'{"fingerprint": 3, "files": {}}'), ("whole.json", b'{"fingerprint": "mine", "files": 3}')],
)  # fmt: skip
def test_a_checkpoint_that_is_not_as_it_was_written_is_not_gone_on_from(tmp_path, name, change):
    wanted = checkpoint(tmp_path, 3, "mine")
    damaged = checkpoint(tmp_path, 12, "mine")
    (damaged / name).write_bytes(change)
    (tmp_path / "checkpoint-mine").mkdir()  # somebody's own
    assert resume.resume_point(tmp_path, "mine", restart=False) == wanted
    assert not damaged.exists()
    assert (tmp_path / "checkpoint-mine").exists()


def test_without_a_checkpoint_everything_begins_anew(tmp_path):
    checkpoint(tmp_path, 3)
    (tmp_path / resume.START).write_text("[]")
    assert resume.resume_point(tmp_path, "mine", restart=False) is None
    assert list(tmp_path.iterdir()) == []


def test_only_the_main_process_tidies(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    broken = checkpoint(tmp_path, 3)
    assert resume.resume_point(tmp_path, "mine", restart=True) is None
    assert broken.exists()


def test_what_does_not_change_the_result_is_no_part_of_its_fingerprint(tmp_path):
    plain = config_of(tmp_path)

    def mark(*overrides):
        return resume.training_fingerprint(
            load_train_config(plain.model_dump(mode="json"), overrides=list(overrides)), {"a": "1"}
        )

    same = ("train.workers=3", "train.log_steps=7", "train.keep_checkpoints=9", "output=x", "logs=y", "device=cuda")
    assert {mark(one) for one in same} == {mark()}
    others = {mark(one) for one in ("train.epochs=9", "seed=5", "train.learning_rate=1e-9", "adapter.rank=3")}
    assert len(others | {mark()}) == 5
    assert resume.training_fingerprint(plain, {"a": "2"}) != mark()


def test_a_base_is_its_weights_or_its_commit(tmp_path):
    (tmp_path / "b.safetensors").write_bytes(b"b")
    (tmp_path / "a.safetensors").write_bytes(b"a")
    (tmp_path / "config.json").write_text("{}")
    found = resume.identity(str(tmp_path))
    assert list(found) == ["a.safetensors", "b.safetensors"]
    assert found["a.safetensors"] != found["b.safetensors"]
    with pytest.raises(CheckpointError, match="org/name: neither a local directory nor"):
        resume.identity("org/name")


# ---- layers ----

MAPS = st.recursive(
    st.integers() | st.text(max_size=3), lambda inner: st.dictionaries(st.sampled_from("abcd"), inner, max_size=3),
    max_leaves=8,
).filter(lambda value: isinstance(value, dict))  # fmt: skip


@given(MAPS, MAPS, MAPS)
def test_layers_lie_over_one_another_in_any_grouping(a, b, c):
    assert lay_over(lay_over(a, b), c) == lay_over(a, lay_over(b, c)) or _types_change(a, b, c)
    assert lay_over(a, {}) == a == lay_over({}, a)
    assert lay_over(a, a) == a


def _types_change(*layers):
    """A value that a map replaces, or the other way round, forgets what lay below: then the grouping matters."""
    kinds: dict[tuple[str, ...], set[bool]] = {}

    def walk(value, path):
        kinds.setdefault(path, set()).add(isinstance(value, dict))
        if isinstance(value, dict):
            for key, inner in value.items():
                walk(inner, (*path, key))

    for layer in layers:
        walk(layer, ())
    return any(len(k) == 2 for k in kinds.values())


def test_null_takes_a_key_away_and_layers_stay_as_they_were():
    below, above = {"a": {"x": 1, "y": 2}, "b": 1}, {"a": {"x": None}, "b": None, "c": None}
    assert lay_over(below, above) == {"a": {"y": 2}}
    assert below == {"a": {"x": 1, "y": 2}, "b": 1}
