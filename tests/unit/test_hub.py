"""The hub's code against a local server that answers as the hub does: revisions, redirects, ranges, refusals."""

from __future__ import annotations

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlparse

import pytest
import torch
from safetensors.torch import save

import chorus
from adapters import make_adapters
from chorus.checkpoints.model import OpenOptions
from chorus.checkpoints.open import on_its_base, open_model
from chorus.checkpoints.reference import parse_reference
from chorus.errors import CheckpointError
from chorus.export.api import tokenizer_at
from models import load_all

COMMIT = "a" * 40
OLD = "b" * 40


class Hub:
    """Repositories by name, and a record of what was asked for."""

    def __init__(self) -> None:
        self.files: dict[str, dict[str, bytes]] = {}
        self.refusals: dict[str, tuple[int, str]] = {}
        self.requests: list[tuple[str, str, str | None, str | None]] = []
        self.bytes_sent = 0
        self.break_after: int | None = None
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self):
                hub.answer(self, body=False)

            def do_GET(self):
                hub.answer(self, body=True)

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.storage = ThreadingHTTPServer(("localhost", 0), Handler)  # another host, as the hub's storage is
        self.storage_url = f"http://localhost:{self.storage.server_address[1]}"
        for server in (self.server, self.storage):
            threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()  # looks for its end

    def answer(self, handler, *, body: bool) -> None:
        path = unquote(urlparse(handler.path).path)
        authorization = handler.headers.get("Authorization")
        self.requests.append((handler.command, path, handler.headers.get("Range"), authorization))
        for repository, (status, code) in self.refusals.items():
            if repository in path:
                return self._send(handler, status, b"{}", {"X-Error-Code": code} if code else {}, body)
        if path.startswith("/api/models/"):
            return self._info(handler, path, body)
        if path.startswith("/storage/"):
            return self._content(handler, bytes(self.blob(path.removeprefix("/storage/"))), {}, body)
        repository, _, rest = path.strip("/").partition("/resolve/")
        revision, _, name = rest.partition("/")
        files = self.files.get(repository)
        if files is None:
            return self._send(handler, 404, b"{}", {"X-Error-Code": "RepoNotFound"}, body)
        if revision not in ("main", "v1", COMMIT, OLD):
            return self._send(handler, 404, b"{}", {"X-Error-Code": "RevisionNotFound"}, body)
        if name not in files:
            return self._send(handler, 404, b"{}", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT}, body)
        content = files[name]
        commit = OLD if revision in ("v1", OLD) else COMMIT
        facts = {"X-Repo-Commit": commit, "ETag": f'"{hashlib.sha1(content).hexdigest()}"'}
        if name.endswith(".safetensors"):  # as the hub's large files: a redirect to the storage
            digest = hashlib.sha256(content).hexdigest()
            facts |= {"X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(len(content))}
            facts["Location"] = f"{self.storage_url}/storage/{digest}"
            return self._send(handler, 302, b"", facts, body)
        return self._content(handler, content, facts, body)

    def blob(self, digest: str) -> bytes:
        every = [c for files in self.files.values() for c in files.values()]
        return next(c for c in every if hashlib.sha256(c).hexdigest() == digest)

    def _info(self, handler, path, body):
        repository = path.removeprefix("/api/models/").split("/revision/")[0].split("/tree/")[0]
        revision = path.partition("/revision/")[2] or "main"
        if repository not in self.files:
            return self._send(handler, 404, b"{}", {"X-Error-Code": "RepoNotFound"}, body)
        if revision not in ("main", "v1", COMMIT, OLD):
            return self._send(handler, 404, b"{}", {"X-Error-Code": "RevisionNotFound"}, body)
        files = [{"rfilename": n, "size": len(c)} for n, c in self.files[repository].items()]
        commit = OLD if revision in ("v1", OLD) else COMMIT
        if "/tree/" in path:
            files = [{"type": "file", "path": f["rfilename"], "size": f["size"], "oid": "0" * 40} for f in files]
            return self._send(handler, 200, json.dumps(files).encode(), {}, body)
        info = {"id": repository, "modelId": repository, "sha": commit, "siblings": files, "private": False, "tags": []}
        return self._send(handler, 200, json.dumps(info).encode(), {}, body)

    def _content(self, handler, content: bytes, headers: dict[str, str], body: bool) -> None:
        status, piece = 200, content
        wanted = handler.headers.get("Range")
        if wanted and body:
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            start, stop = int(first), int(last) + 1 if last else len(content)
            piece, status = content[start:stop], 206
            headers = {**headers, "Content-Range": f"bytes {start}-{stop - 1}/{len(content)}"}
        self._send(handler, status, piece, {**headers, "Accept-Ranges": "bytes"}, body)

    def _send(self, handler, status: int, content: bytes, headers: dict[str, str], body: bool) -> None:
        handler.send_response(status)
        for key, value in headers.items():
            handler.send_header(key, value)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        if not body:
            return
        if self.break_after is not None and len(content) > self.break_after:
            content, self.break_after = content[: self.break_after], None
            handler.wfile.write(content)
            handler.wfile.flush()
            handler.connection.close()
            handler.close_connection = True
            return
        self.bytes_sent += len(content)
        handler.wfile.write(content)


@pytest.fixture
def hub(monkeypatch, qwen, tmp_path):
    """A hub with one repository, org/tuned, whose older revision v1 is the same model."""
    from huggingface_hub import constants

    made = Hub()
    made.files["org/tuned"] = {p.name: p.read_bytes() for p in qwen.tuned[0].iterdir()}
    made.files["org/sharded"] = {p.name: p.read_bytes() for p in qwen.tuned[1].iterdir()}
    monkeypatch.setattr(constants, "ENDPOINT", made.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", made.url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    from huggingface_hub import file_download, hf_api

    for module in (file_download, hf_api):
        if hasattr(module, "ENDPOINT"):
            monkeypatch.setattr(module, "ENDPOINT", made.url)
    monkeypatch.setattr(hf_api.api, "endpoint", made.url, raising=False)
    yield made
    made.server.shutdown()
    made.storage.shutdown()


@pytest.fixture
def options(tmp_path):
    return OpenOptions(cache_dir=str(tmp_path / "cache"))


def test_downloads_a_model_with_its_revision_and_hashes(hub, options, qwen):
    model = open_model(parse_reference("org/tuned@v1"), options)
    assert model.revision == OLD
    assert model.label == "org/tuned"
    expected = load_all(qwen.tuned[0])
    assert all(torch.equal(model.checkpoint[n].read(), v) for n, v in expected.items())
    digest = hashlib.sha256(hub.files["org/tuned"]["model.safetensors"]).hexdigest()
    assert model.hub_hashes == {"model.safetensors": digest}


def test_the_token_stays_with_the_hub(hub, options):
    """The storage that a redirect leads to has signed links of its own; the token is not for it."""
    plan_options = OpenOptions(cache_dir=options.cache_dir, weights=False)
    open_model(parse_reference("org/tuned"), plan_options)
    asked = [r for r in hub.requests if r[1].startswith("/storage/") and r[0] == "GET"]
    assert asked
    assert [r[3] for r in asked] == [None] * len(asked)
    assert any(r[3] for r in hub.requests if "/resolve/" in r[1])


@pytest.mark.parametrize("name", ["org/tuned", "org/sharded"])
def test_a_plan_reads_headers_by_range_and_downloads_no_weights(hub, options, qwen, name):
    planned = OpenOptions(cache_dir=options.cache_dir, weights=False)
    model = open_model(parse_reference(name), planned)
    local = open_model(parse_reference(str(qwen.tuned[0 if name == "org/tuned" else 1])))
    assert {n: (t.shape, t.dtype) for n, t in model.checkpoint.items()} == {
        n: (t.shape, t.dtype) for n, t in local.checkpoint.items()
    }
    ranges = [r[2] for r in hub.requests if r[1].startswith("/storage/") and r[0] == "GET"]
    assert ranges
    assert all(ranges), "a weight file was asked for whole"
    sizes = sum(len(c) for n, c in hub.files[name].items() if n.endswith(".safetensors"))
    assert hub.bytes_sent < sizes / 2
    with pytest.raises(CheckpointError, match="weights were not downloaded"):
        next(iter(model.checkpoint.values())).read()


def test_a_whole_merge_from_the_hub(hub, options, out, qwen):
    recipe = {
        "merge_method": "linear",
        "models": [{"model": f"org/{n}", "parameters": {"weight": 1}} for n in ("tuned", "sharded")],
    }
    chorus.merge(recipe, out, chorus.Options(cache_dir=options.cache_dir))
    facts = json.loads((out / "chorus.json").read_text())
    assert [i["revision"] for i in facts["inputs"]] == [COMMIT, COMMIT]
    assert all(f["hub_hash"] for i in facts["inputs"] for f in i["files"].values())
    assert "- org/tuned" in (out / "README.md").read_text()


def test_the_cache_serves_when_offline(hub, options):
    open_model(parse_reference("org/tuned"), options)
    count = len(hub.requests)
    model = open_model(parse_reference("org/tuned"), OpenOptions(cache_dir=options.cache_dir, offline=True))
    assert model.revision == COMMIT
    assert len(hub.requests) == count
    with pytest.raises(CheckpointError, match="neither a local directory nor in the cache"):
        open_model(parse_reference("org/unseen"), OpenOptions(cache_dir=options.cache_dir, offline=True))


def test_a_broken_download_goes_on_where_it_stopped(hub, options, qwen, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 5000)
    hub.break_after = 20_000
    model = open_model(parse_reference("org/tuned"), options)
    name = "model.embed_tokens.weight"
    assert torch.equal(model.checkpoint[name].read(), load_all(qwen.tuned[0])[name])
    assert any(r[2] == "bytes=20000-" for r in hub.requests), [r[2] for r in hub.requests]


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (404, "RepoNotFound", "neither a local directory nor a model on the hub"),
        (401, "", "the hub does not let you read it (401)"),
        (403, "GatedRepo", "gated"),
        (501, "", "the hub answered with an error"),
    ],
)
@pytest.mark.parametrize("weights", [True, False])
def test_refusals_are_explained(hub, options, status, code, message, weights):
    hub.files["org/closed"] = {}
    hub.refusals["org/closed"] = (status, code)
    with pytest.raises(CheckpointError) as caught:
        open_model(parse_reference("org/closed"), OpenOptions(cache_dir=options.cache_dir, weights=weights))
    assert message in str(caught.value)
    assert "org/closed" in str(caught.value)


def test_an_unknown_revision_is_named(hub, options):
    with pytest.raises(CheckpointError, match="no revision v9"):
        open_model(parse_reference("org/tuned@v9"), options)


def test_a_repository_without_safetensors_is_not_a_model(hub, options):
    hub.files["org/docs"] = {"config.json": b"{}", "README.md": b"# hello"}
    for weights in (True, False):
        with pytest.raises(CheckpointError, match="not a model"):
            open_model(parse_reference("org/docs"), OpenOptions(cache_dir=options.cache_dir, weights=weights))


def test_a_mistyped_local_path_is_not_asked_of_the_hub(hub, options):
    with pytest.raises(CheckpointError, match="no such file or directory"):
        open_model(parse_reference("./nowhere"), options)
    assert hub.requests == []


LARGE = {  # as openai/whisper-large-v3 lies on the hub: three times the weights that are read
    "model.fp32-00001-of-00002.safetensors", "model.safetensors.index.fp32.json", "pytorch_model.bin",
    "pytorch_model.fp32-00001-of-00002.bin", "flax_model.msgpack", "onnx/model.onnx", "adapter_model.safetensors",
    "8bit/model.safetensors", "8bit/config.json", "runs/one/events", ".gitattributes",
}  # fmt: skip
WITH_IT = {
    "tekken.json": b"{}", "LICENSE": b"free", "language_model/5gram.bin": b"5", "odd[1].txt": b"odd",
    "preprocessor_config.json": b"{}", "spk_dict.pt": b"speakers",
}  # fmt: skip


@pytest.fixture
def large(hub):
    """org/tuned with all that the hub has beside a model; returns what was asked for of it."""
    files = hub.files["org/tuned"]
    files |= dict.fromkeys(LARGE, b"x" * 100_000) | WITH_IT
    files["8bit/config.json"] = files["config.json"]

    def fetched():
        places = {
            r[1].removeprefix("/org/tuned/resolve/").partition("/")[2] for r in hub.requests if "/resolve/" in r[1]
        }
        # the folder's config tells whether it is a part of the model
        return places - {"config.json", "generation_config.json", "README.md", "8bit/config.json"}

    return fetched


def test_no_more_is_downloaded_than_is_read(large, hub, options):
    model = open_model(parse_reference("org/tuned"), options)
    assert large() == {"model.safetensors", *WITH_IT}
    read = {path.name for path in model.directory.iterdir()}
    assert read >= {"model.safetensors", "LICENSE", "odd[1].txt", "language_model", "README.md"}
    assert not read & LARGE


def test_a_plan_fetches_what_it_compares_and_knows_the_rest(large, hub, options):
    model = open_model(parse_reference("org/tuned"), OpenOptions(cache_dir=options.cache_dir, weights=False))
    assert large() == {"model.safetensors", "tekken.json", "odd[1].txt", "preprocessor_config.json"}
    assert set(model.beside) == set(WITH_IT)
    assert hub.bytes_sent < 100_000


def test_the_whole_file_goes_before_an_index_on_the_hub_too(hub, options):
    stale = json.loads(hub.files["org/sharded"]["model.safetensors.index.json"])
    hub.files["org/tuned"]["model.safetensors.index.json"] = json.dumps(stale).encode()
    for weights in (False, True):
        model = open_model(parse_reference("org/tuned"), OpenOptions(cache_dir=options.cache_dir, weights=weights))
        assert list(model.files) == ["model.safetensors"]
        (warning,) = model.warnings
        assert "model.safetensors is read, as transformers does" in warning


@pytest.mark.parametrize("weights", [False, True])
@pytest.mark.parametrize(
    ("second", "told", "message"),
    [
        ({"a.weight": torch.zeros(2)}, ["a.weight"], "a.weight stands in two files"),
        ({"b.weight": torch.zeros(2, dtype=torch.int8)}, ["a.weight", "b.weight"], "b.weight holds int8"),
        ({"b.weight": torch.zeros(2)}, ["a.weight", "b.weight", "c.weight"], None),
    ],
)
def test_a_plan_refuses_and_tells_what_a_merge_does(hub, options, weights, second, told, message):
    parts = {"m-1.safetensors": save({"a.weight": torch.ones(2)}), "m-2.safetensors": save(second)}
    weight_map = {name: f"m-{1 + (name != 'a.weight')}.safetensors" for name in told} | {"of m-2": "m-2.safetensors"}
    index = json.dumps({"weight_map": weight_map}).encode()
    hub.files["org/odd"] = {**parts, "config.json": b'{"model_type": "any"}', "model.safetensors.index.json": index}
    asked = OpenOptions(cache_dir=options.cache_dir, weights=weights)
    if message:
        with pytest.raises(CheckpointError, match=message):
            open_model(parse_reference("org/odd"), asked)
    else:
        (warning,) = open_model(parse_reference("org/odd"), asked).warnings
        assert "2 tensors are in none of its shards (c.weight, ...)" in warning


def test_pickles_are_downloaded_on_request_alone(hub, options):
    files = hub.files["org/tuned"]
    weights = files.pop("model.safetensors")
    files["pytorch_model.bin"] = weights
    for given, message in ((options, "a pickled checkpoint"), (OpenOptions(weights=False), "weights are pickled")):
        with pytest.raises(CheckpointError, match=message):
            open_model(parse_reference("org/tuned"), given)
    assert not any("pytorch_model.bin" in r[1] for r in hub.requests)
    allowed = OpenOptions(cache_dir=options.cache_dir, allow_pickle=True)
    with pytest.raises(CheckpointError, match="no model file"):  # for it is none
        open_model(parse_reference("org/tuned"), allowed)
    assert any("pytorch_model.bin" in r[1] for r in hub.requests)


def test_a_tokenizer_is_fetched_alone(hub, options):
    hub.files["org/tok"] = {"tokenizer.json": b"{}", "config.json": b"{}", "model.safetensors": bytes(1000)}
    place = tokenizer_at("org/tok@v1", options)
    assert [path.name for path in place.iterdir()] == ["tokenizer.json"]
    with pytest.raises(CheckpointError, match="neither a local directory nor a model on the hub"):
        tokenizer_at("org/unseen", options)
    with pytest.raises(CheckpointError, match="check the path of the tokenizer"):
        tokenizer_at("no-such-folder", options)


def test_an_adapter_alone_stands_on_the_base_that_it_names(hub, options, tmp_path):
    base, (adapter,) = make_adapters(tmp_path, "qwen2", 1)
    hub.files["org/base"] = {p.name: p.read_bytes() for p in base.iterdir()}
    hub.files["org/lora"] = {p.name: p.read_bytes() for p in adapter.iterdir() if p.name != "config.json"}
    facts = json.loads(hub.files["org/lora"]["adapter_config.json"])
    hub.files["org/lora"]["adapter_config.json"] = json.dumps({**facts, "base_model_name_or_path": "org/base"}).encode()
    found = on_its_base("org/lora@v1", options)
    assert str(found) == "org/base+org/lora@v1"
    assert len(open_model(found, options).checkpoint) == len(open_model(base).checkpoint)
    away = OpenOptions(cache_dir=options.cache_dir, offline=True)
    assert str(on_its_base("org/lora@v1", away)) == "org/base+org/lora@v1"  # from the cache
    for other in ("org/base", "org/base+org/lora", "org/unseen", str(base)):
        assert on_its_base(other, options) == other


@pytest.mark.parametrize("weights", ["adapter_model.safetensors", "task_vector.safetensors"])
def test_what_lies_beside_an_adapter_comes_with_it(hub, options, tmp_path, weights):
    base, (adapter,) = make_adapters(tmp_path, "qwen2", 1)
    beside = {"tokenizer.json": b"{}", "chorus.json": b'{"kind": "train"}'}
    hub.files["org/small"] = {p.name: p.read_bytes() for p in base.iterdir()}
    files = {p.name: p.read_bytes() for p in adapter.iterdir()}
    if weights not in files:
        tensors = load_all(base)
        name = next(iter(tensors))
        files = {weights: save({name: torch.ones_like(tensors[name])})}
    hub.files["org/lora"] = files | beside | {"optimizer.pt": b"x", "README.md": b""}
    found = open_model(parse_reference("org/small+org/lora"), options)
    place = found.adapter_paths[weights].parent
    assert {p.name for p in place.iterdir()} == {*files, *beside} - {"README.md"}
    assert not any("optimizer" in r[1] for r in hub.requests)


def test_quantised_weights_are_refused_before_they_are_downloaded(hub, options):
    hub.files["org/tuned"]["config.json"] = b'{"quantization_config": {"quant_method": "awq"}}'
    with pytest.raises(CheckpointError, match="quantised"):
        open_model(parse_reference("org/tuned"), options)
    assert not any("model.safetensors" in r[1] for r in hub.requests)


def test_without_an_answer_the_cache_serves(hub, options, monkeypatch):
    first = open_model(parse_reference("org/tuned"), options)
    from huggingface_hub import HfApi

    def silent(*args, **keys):
        raise ConnectionError("no route")

    monkeypatch.setattr(HfApi, "list_repo_tree", silent)
    for weights in (True, False):
        again = open_model(parse_reference("org/tuned"), OpenOptions(cache_dir=options.cache_dir, weights=weights))
        assert again.directory == first.directory
    with pytest.raises(CheckpointError, match="neither a local directory nor in the cache"):
        open_model(parse_reference("org/unseen"), options)
