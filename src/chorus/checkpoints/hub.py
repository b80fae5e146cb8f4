"""Models on the Hugging Face hub: downloads through its cache, or headers alone by HTTP range."""

from __future__ import annotations

import glob
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from huggingface_hub import HfApi, constants, get_hf_file_metadata, hf_hub_download, hf_hub_url, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils._headers import build_hf_headers
from huggingface_hub.utils._http import get_session

from chorus.checkpoints.beside import Beside, sort_out
from chorus.checkpoints.directory import open_directory, tensors_of, unkept
from chorus.checkpoints.kinds import refuse_quantised
from chorus.checkpoints.lazy_tensor import HeaderTensor
from chorus.checkpoints.model import Model, OpenOptions
from chorus.checkpoints.reference import Reference
from chorus.checkpoints.safetensors_header import Header, parse_header
from chorus.checkpoints.weights import WeightFiles, refuse_pickle, weight_files
from chorus.checkpoints.whereabouts import ADAPTER, nearest_path
from chorus.errors import CheckpointError
from chorus.files import MAX_INDEX, read_json
from chorus.plain import JsonObject

# Besides what goes with a model: written anew for a merge, but read for one.
READ = ("config.json", "generation_config.json", "README.md", "chorus.json")
# What a plan fetches of a repository's top level, so that tokenizers and settings can be compared.
PLANNED = (".json", ".txt", ".jinja", ".model", ".spm", ".tiktoken")


@dataclass(frozen=True)
class OnHub:
    """The files of a repository, as the hub lists them; each is fetched when it is read."""

    reference: Reference
    options: OpenOptions
    listing: dict[str, int]  # bytes by name

    def names(self) -> Collection[str]:
        return sorted(name for name in self.listing if "/" not in name)

    def has(self, name: str) -> bool:
        return name in self.listing

    def json(self, name: str) -> JsonObject:
        return read_json(self.fetch(name), limit=MAX_INDEX)

    def odd(self, name: str) -> str:
        return ""  # a repository holds files alone

    def size(self, name: str) -> int:
        return self.listing[name]

    def remedy(self) -> str:
        return ""  # nothing lies beside a repository

    def fetch(self, name: str) -> Path:
        return Path(
            hf_hub_download(
                self.reference.path, name, revision=self.reference.revision, cache_dir=self.options.cache_dir
            )
        )


@dataclass(frozen=True)
class Picked:
    """Of a repository: its config and where that lies, the files of weights, what goes with them."""

    config: JsonObject
    directory: Path
    weights: WeightFiles
    beside: Beside


def open_hub_model(reference: Reference, options: OpenOptions) -> Model:
    """Open a hub model; without `options.weights`, from its cached or remotely read headers."""
    if not options.weights:
        cached = _cached(reference, options)
        return cached if cached is not None else _open_headers(reference, options)
    directory, revision = _download_model(reference, options)
    model = open_directory(directory, reference.name, allow_pickle=options.allow_pickle)
    model.revision = revision
    # the hub has hashed these files already: reading them for a hash of our own would cost more than the merge
    model.hub_hashes = {name: blob_hash(path) for name, path in model.paths.items() if blob_hash(path)}
    return model


def adapter_config(reference: Reference, options: OpenOptions) -> Path | None:
    """The config of a repository that holds an adapter and no model; None of any other, or where there is none."""
    try:
        with _explained(reference):
            listed = _listed(reference, options)
            if listed is not None:
                return listed.fetch(ADAPTER) if listed.has(ADAPTER) and not listed.has("config.json") else None
        cached, _ = download(reference, replace(options, offline=True), [ADAPTER, "config.json"])
    except CheckpointError:  # what stands in the way is told where it is opened
        return None
    return cached / ADAPTER if (cached / ADAPTER).exists() and not (cached / "config.json").exists() else None


def _download_model(reference: Reference, options: OpenOptions) -> tuple[Path, str | None]:
    """Bring what is read of a model into the cache: the weights that transformers would take, and what goes with them.

    Many repositories hold each weight three times and more: in float32, for other frameworks, as pickles.
    """
    with _explained(reference):
        files = _listed(reference, options)
    if files is None:
        return download(reference, replace(options, offline=True), ["config.json"])
    chosen = _choose(files)
    if chosen.weights.pickled:  # on request alone, and loaded with weights_only
        refuse_pickle(f"{reference}/{chosen.weights.names[0]}", options.allow_pickle)
    # the hub library takes shell patterns, and a name may look like one
    names = map(glob.escape, [*chosen.weights.all_names, *chosen.beside.carried, *READ])
    return download(reference, options, list(names))


@contextmanager
def _explained(reference: Reference) -> Iterator[None]:
    """What is done with the hub's library, its failures in the user's words."""
    try:
        yield
    except CheckpointError:
        raise
    # its own errors, those of the HTTP library below it, and the system's: `explain` sorts them
    except Exception as error:
        raise explain(reference, error) from error


def _listed(reference: Reference, options: OpenOptions) -> OnHub | None:
    """The repository's files; None where the hub is not to be asked, or does not answer."""
    if options.offline or constants.HF_HUB_OFFLINE:
        return None
    try:
        tree = HfApi().list_repo_tree(reference.path, revision=reference.revision, recursive=True)
        listing = {entry.path: entry.size for entry in tree if isinstance(entry, RepoFile)}
    except HfHubHTTPError:
        raise  # it answers, and says no
    # no connection, in the words of several libraries: what is in the cache may do
    except Exception:
        return None
    return OnHub(reference, options, listing)


def _choose(files: OnHub) -> Picked:
    """What would be read of a repository; its config and index are fetched for it."""
    with _explained(files.reference):
        path = files.fetch("config.json")
        config = read_json(path)
        refuse_quantised(config, files.reference.name)  # before gigabytes of it are here
        weights = weight_files(files, config, str(files.reference))
        beside = sort_out(sorted(files.listing), files, path.parent, config)
    return Picked(config, path.parent, weights, beside)


def download(reference: Reference, options: OpenOptions, patterns: list[str]) -> tuple[Path, str | None]:
    """Bring a repository's files of these patterns into the cache; returns its directory and commit."""
    with _explained(reference):
        found = snapshot_download(
            reference.path,
            revision=reference.revision,
            cache_dir=options.cache_dir,
            allow_patterns=patterns,
            local_files_only=options.offline or constants.HF_HUB_OFFLINE,
        )
    directory = Path(found)
    # a snapshot's folder is called after its commit, whatever branch or tag was asked for
    return directory, directory.name


def blob_hash(path: Path) -> str:
    """The hub's hash of a cached file: the name of the blob that the snapshot links to."""
    target = path.resolve().name  # SHA-1 of git (40 digits) or SHA-256 of large files (64)
    return target if path.is_symlink() and len(target) in (40, 64) else ""


def _cached(reference: Reference, options: OpenOptions) -> Model | None:
    try:
        directory, revision = download(reference, replace(options, offline=True), ["config.json"])
        model = open_directory(directory, reference.name, allow_pickle=options.allow_pickle)
    # a snapshot of headers or configs alone opens as no model: then the headers are fetched
    except CheckpointError:
        return None
    model.revision = revision
    return model


def _open_headers(reference: Reference, options: OpenOptions) -> Model:
    with _explained(reference):
        files = _listed(reference, options)
    if files is None:
        directory, _ = download(reference, replace(options, offline=True), ["config.json"])
        return open_directory(directory, reference.name, allow_pickle=options.allow_pickle)
    chosen = _choose(files)
    if chosen.weights.pickled:
        raise CheckpointError(
            f"{reference}: its weights are pickled ({chosen.weights.names[0]}), whose shapes no header tells",
            "convert them to safetensors, or download the model and name its directory, with --allow-pickle",
        )
    with _explained(reference):
        headers = {name: _remote_header(reference, name) for name in chosen.weights.names}
    beside = [name for name in chosen.beside.carried if "/" not in name and name.endswith(PLANNED)]
    download(reference, options, [*map(glob.escape, beside), *READ])
    label = reference.name
    return Model(
        label,
        tensors_of(headers, lambda entry, name: HeaderTensor(entry, f"{reference}/{name}"), label),
        chosen.config,
        chosen.directory,
        chosen.directory.name,
        headers,
        beside=chosen.beside.carried,
        warnings=[*chosen.weights.warnings, *unkept(files, chosen.weights, headers, str(reference))],
    )


def _remote_header(reference: Reference, name: str) -> Header:
    """Read a safetensors header by HTTP range: its beginning, and the length that this gives."""
    url = hf_hub_url(reference.path, name, revision=reference.revision)
    metadata = get_hf_file_metadata(url)
    location, headers = metadata.location, build_hf_headers()
    if location != url:  # a signed link of the storage: the hub's token does not belong there
        headers = {k: v for k, v in headers.items() if k.lower() != "authorization"}

    def read(start: int, stop: int) -> bytes:
        response = get_session().get(location, headers={**headers, "Range": f"bytes={start}-{stop - 1}"})
        response.raise_for_status()
        content: bytes = response.content
        # a server may ignore the range (RFC 9110 lets it) and send the file from its beginning, as status 200
        return content[start:stop] if response.status_code == 200 else content

    if metadata.size is None:
        raise CheckpointError(f"{reference}/{name}: the server does not tell its size", "download the model first")
    return parse_header(read, metadata.size, f"{reference}/{name}")


def explain(reference: Reference, error: Exception) -> CheckpointError:
    """A hub failure in the user's words, with the remedy."""
    path = reference.path
    if isinstance(error, GatedRepoError):  # before RepositoryNotFoundError, of which it is a kind
        return CheckpointError(
            f"{path}: gated", f"accept its terms on the hub and log in with `hf auth login` ({path})"
        )
    if isinstance(error, RevisionNotFoundError):
        return CheckpointError(f"{path}: no revision {reference.revision}", "check the branch, tag or commit")
    near = nearest_path(Path(path))
    if isinstance(error, HFValidationError):
        return CheckpointError(
            f"{path}: no such file or directory{near}",
            "check the path; a model of the hub is named org/name, in letters, digits, '-', '_' and '.'",
        )
    if isinstance(error, RepositoryNotFoundError):
        return CheckpointError(
            f"{path}: neither a local directory nor a model on the hub{near}",
            "check the spelling; for a private model log in with `hf auth login`",
        )
    # the hub library turns refusals into "not in the cache": what the server said is the error's cause
    cause = error.__cause__ if isinstance(error, LocalEntryNotFoundError) else error
    if isinstance(cause, HfHubHTTPError) and not isinstance(cause, EntryNotFoundError):
        status = cause.response.status_code if cause.response is not None else 0
        if status in (401, 403):
            return CheckpointError(
                f"{path}: the hub does not let you read it ({status})",
                "check the spelling; for a private model log in with `hf auth login`, or renew the token",
            )
        return CheckpointError(f"{path}: the hub answered with an error ({_line(cause)})", "try again later")
    if isinstance(error, LocalEntryNotFoundError):
        return CheckpointError(
            f"{path}: neither a local directory nor in the cache, and the hub cannot be reached{near}",
            f"check the path, or go online (HF_HUB_OFFLINE is {'set' if constants.HF_HUB_OFFLINE else 'not set'})",
        )
    if isinstance(error, EntryNotFoundError):
        return CheckpointError(
            f"{path}: not a model directory in safetensors ({_line(error)})", "name another repository"
        )
    return CheckpointError(
        f"{path}: cannot be fetched ({type(error).__name__}: {_line(error)})", "check the connection"
    )


def _line(error: object) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
