"""Uploads against a local server that answers what the hub's library asks for: a login, a repository, a commit."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import pytest
import yaml
from click.testing import CliRunner

import chorus
from chorus.cli.main import cli
from chorus.errors import OutputError, UsageError
from sounds import BASE

TOKEN = "hf_averysecretone"


class UploadHub:
    """Keeps what is committed, by repository and branch; large files go through LFS, as on the hub."""

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, Any]] = {}
        self.branches: dict[tuple[str, str], dict[str, bytes]] = {}
        self.messages: list[str] = []
        self.large: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.refusal: tuple[str, int, str] | None = None
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                path = urlparse(self.path).path
                hub.asked.append(f"{self.command} {path}")
                known = self.headers.get("Authorization") == f"Bearer {TOKEN}" or path.startswith("/put/")
                if not known:
                    return self.send(401, {"error": "who?"})
                if hub.refusal is not None and hub.refusal[0] in path:
                    return self.send(hub.refusal[1], {"error": hub.refusal[2]})
                found = hub.done(self.command, path, body)
                self.send(404 if found == {"error": "Repository not found"} else 200, found)

            do_GET = do_POST = do_PUT = answer

            def send(self, status: int, value: object) -> None:
                data = json.dumps(value).encode()
                self.send_response(status)
                told = value["error"] if isinstance(value, dict) and "error" in value else ""
                for name, text in (("Content-Length", str(len(data))), ("X-Error-Message", told)):
                    self.send_header(name, text)
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def done(self, command: str, path: str, body: bytes) -> object:
        parts = path.strip("/").split("/")
        if path == "/api/whoami-v2":
            return {"name": "me", "type": "user", "orgs": [{"name": "org"}]}
        if path == "/api/validate-yaml":  # the card's front matter, which the hub looks at before a commit
            self.front = yaml.safe_load(json.loads(body)["content"].split("---\n")[1])
            return {"errors": [], "warnings": []}
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked.get('organization') or 'me'}/{asked['name']}"
            self.repositories.setdefault(name, asked)
            self.branches.setdefault((name, "main"), {})
            return {"url": f"{self.url}/{name}", "id": "1"}
        if path.startswith("/put/"):
            self.large[parts[1]] = body
            return {}
        if path.endswith("/info/lfs/objects/batch"):
            found = json.loads(body)["objects"]
            actions = [
                {**one, "actions": {"upload": {"href": f"{self.url}/put/{one['oid']}", "header": {}}}} for one in found
            ]
            return {"transfer": "basic", "objects": actions}
        name, what = "/".join(parts[2:4]), "".join(parts[4:5])
        if name not in self.repositories:
            return {"error": "Repository not found"}
        if what == "branch":
            self.branches.setdefault((name, parts[5]), {})
        if what == "preupload":
            names = [one["path"] for one in json.loads(body)["files"]]
            modes = {name: "lfs" if name.endswith("safetensors") else "regular" for name in names}
            return {
                "files": [{"path": n, "uploadMode": m, "shouldIgnore": False, "oid": None} for n, m in modes.items()]
            }
        if what == "commit":
            self.commit(self.branches[name, parts[5]], [json.loads(line) for line in body.splitlines() if line])
            return {"commitUrl": f"{self.url}/{name}/commit/{'c' * 40}", "commitOid": "c" * 40, "success": True}
        return {"id": name, "sha": "c" * 40, "siblings": [], "private": False, "tags": []}

    def commit(self, files: dict[str, bytes], lines: list[dict[str, Any]]) -> None:
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                self.messages.append(value["summary"])
            elif line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                content = self.large[value["oid"]]
                assert hashlib.sha256(content).hexdigest() == value["oid"]
                files[value["path"]] = content


@pytest.fixture
def hub(monkeypatch):
    from huggingface_hub import constants

    made = UploadHub()
    monkeypatch.setattr(constants, "ENDPOINT", made.url)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    yield made
    made.server.shutdown()


def push(out: Path, *flags: str) -> Any:
    return CliRunner().invoke(cli, ["export", str(BASE), "--to", "hf", "-o", str(out), *flags])


def test_the_directory_is_uploaded_as_it_is_and_no_token_is_told(hub, tmp_path):
    out = tmp_path / "small"
    found = push(
        out, "--type", "float32", "--push-to-hub", "org/small", "--private", "--branch", "next",
        "--commit-message", "In half",
    )  # fmt: skip
    assert found.exit_code == 0, found.output
    assert found.stdout.splitlines()[-1] == f"{hub.url}/org/small/commit/{'c' * 40}"
    asked = hub.repositories["org/small"]
    assert asked.get("private") or asked["visibility"] == "private"  # before and since huggingface_hub 2
    assert hub.messages == ["In half"]
    assert hub.branches["org/small", "next"] == {p.name: p.read_bytes() for p in out.iterdir()}
    assert hub.branches["org/small", "main"] == {}
    assert hub.front["license"] == "cc-by-sa-4.0"
    assert TOKEN not in found.output
    assert hub.asked.index("GET /api/whoami-v2") < hub.asked.index("POST /api/repos/create")


def test_nobody_logged_in_is_told_before_work(hub, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    found = push(tmp_path / "x", "--push-to-hub", "org/small").exception
    assert isinstance(found, UsageError)
    assert "not logged in" in found.message
    assert "hf auth login" in found.hint
    assert hub.asked == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("refusal", "kind", "told"),
    [
        (("whoami", 401, "no"), UsageError, "does not know this token"),
        (("create", 403, "no"), OutputError, "does not let you write"),
        (("create", 400, f"bad {TOKEN}"), OutputError, "refused"),
    ],
)
def test_the_hub_s_refusals_in_words_without_the_token(hub, refusal, kind, told):
    hub.refusal = refusal
    with pytest.raises(kind, match=told) as caught:
        chorus.upload(BASE, chorus.Upload("org/small"))
    assert TOKEN not in str(caught.value)


@pytest.mark.parametrize("name", ["small", "a/b/c", "../x", "org/..", "org/na me", ""])
def test_names_that_are_none(hub, name):
    with pytest.raises(UsageError, match="no name of a repository"):
        chorus.upload(BASE, chorus.Upload(name))
    assert hub.asked == []


def test_results_of_other_weights_are_refused_and_its_own_stand_in_the_card(tmp_path, monkeypatch):
    from chorus.errors import MisfitError
    from chorus.evaluate.published import entries_of, results_of
    from results import made_up

    made = made_up(tmp_path / "e", "mine", {"radio": 4, "phone": 2})
    with pytest.raises(MisfitError, match="which is not"):
        results_of(made.directory, chorus.open_model(BASE))
    settings = chorus.ExportOptions(measured=tuple(entries_of(made)))
    place = chorus.export(BASE, tmp_path / "made", "hf", settings=settings).places["own"]
    front = yaml.safe_load((place / "README.md").read_text().split("---\n")[1])
    first = front["model-index"][0]["results"][0]
    assert first["task"]["type"] == "automatic-speech-recognition"
    assert first["metrics"][0]["type"] == "wer"
    assert first["metrics"][0]["value"] == round(made.summary["all"]["error_rate"], 2)
