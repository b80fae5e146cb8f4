"""Models on the Hugging Face hub: downloads through its cache, or headers alone by HTTP range."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils._headers import build_hf_headers
from huggingface_hub.utils._http import get_session

from chorus.checkpoints.directory import open_directory, refuse_quantised
from chorus.checkpoints.lazy_tensor import Checkpoint, HeaderTensor, LazyTensor
from chorus.checkpoints.model import INDEX, SINGLE, Model, OpenOptions, shard_names
from chorus.checkpoints.reference import Reference
from chorus.checkpoints.safetensors_header import Header, parse_header
from chorus.errors import CheckpointError
from chorus.files import MAX_INDEX, read_json

SIDE_FILES = ["*.json", "*.txt", "*.jinja", "*.model", "*.md", "*.tiktoken"]
WEIGHTS = ["*.safetensors"]


def open_hub_model(reference: Reference, options: OpenOptions) -> Model:
    """Open a hub model; without `options.weights`, from its cached or remotely read headers."""
    if options.weights:
        directory, revision = download(reference, options)
        model = open_directory(directory, reference.name, allow_pickle=options.allow_pickle)
        model.revision = revision
        # the hub has hashed these files already: reading them for a hash of our own would cost more than the merge
        model.hub_hashes = {name: blob_hash(path) for name, path in model.paths.items() if blob_hash(path)}
        return model
    cached = _cached(reference, options)
    if cached is not None:
        return cached
    return _open_headers(reference, options)


def download(reference: Reference, options: OpenOptions, patterns: list[str] | None = None) -> tuple[Path, str | None]:
    """Bring a repository into the cache; returns its directory and commit."""
    # pickles only where they may be opened: nothing to run is lying about
    patterns = patterns or [*SIDE_FILES, *WEIGHTS, *(["*.bin", "*.pt"] if options.allow_pickle else [])]
    try:
        directory = Path(
            snapshot_download(
                reference.path,
                revision=reference.revision,
                cache_dir=options.cache_dir,
                allow_patterns=patterns,
                local_files_only=options.offline or constants.HF_HUB_OFFLINE,
            )
        )
    except Exception as error:  # the hub library raises many kinds; `explain` sorts them
        raise explain(reference, error) from error
    # a snapshot's folder is called after its commit, whatever branch or tag was asked for
    return directory, directory.name


def blob_hash(path: Path) -> str:
    """The hub's hash of a cached file: the name of the blob that the snapshot links to."""
    target = path.resolve().name  # SHA-1 of git (40 digits) or SHA-256 of large files (64)
    return target if path.is_symlink() and len(target) in (40, 64) else ""


def _cached(reference: Reference, options: OpenOptions) -> Model | None:
    try:
        directory = Path(
            snapshot_download(
                reference.path, revision=reference.revision, cache_dir=options.cache_dir, local_files_only=True
            )
        )
        model = open_directory(directory, reference.name, allow_pickle=options.allow_pickle)
    # a snapshot of headers or configs alone opens as no model: then the headers are fetched
    except (LocalEntryNotFoundError, CheckpointError):
        return None
    model.revision = directory.name
    return model


def _open_headers(reference: Reference, options: OpenOptions) -> Model:
    def fetch(name: str) -> Path:
        return Path(
            hf_hub_download(
                reference.path,
                name,
                revision=reference.revision,
                cache_dir=options.cache_dir,
                local_files_only=options.offline or constants.HF_HUB_OFFLINE,
            )
        )

    try:
        config_path = fetch("config.json")
        config = read_json(config_path)
        refuse_quantised(config, reference.name)
        try:
            # nothing is on disk yet: a shard that is missing shows when its header is asked for
            names = shard_names(read_json(fetch(INDEX), limit=MAX_INDEX), f"{reference}/{INDEX}", lambda name: True)
        except EntryNotFoundError:
            # the hub says so by an error, and that is how a model in one file is told from one in shards
            names = [SINGLE]
        headers = {name: _remote_header(reference, name) for name in names}
        for name in ("generation_config.json", "README.md", "preprocessor_config.json", "processor_config.json"):
            try:
                fetch(name)
            except EntryNotFoundError:
                continue
    except CheckpointError:
        raise
    except Exception as error:  # the hub library raises many kinds; `explain` sorts them
        raise explain(reference, error) from error
    tensors: dict[str, LazyTensor] = {}
    for name, header in headers.items():
        for entry in header.entries.values():
            tensors[entry.name] = HeaderTensor(entry, f"{reference}/{name}")
    label = reference.name
    return Model(label, Checkpoint(tensors, label), config, config_path.parent, config_path.parent.name, headers)


def _remote_header(reference: Reference, name: str) -> Header:
    """Read a safetensors header by HTTP range: eight bytes and the length that they give."""
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
    if isinstance(error, RepositoryNotFoundError):
        return CheckpointError(
            f"{path}: neither a local directory nor a model on the hub",
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
            f"{path}: neither a local directory nor in the cache, and the hub cannot be reached",
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
