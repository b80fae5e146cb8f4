"""A model's directory to the Hugging Face hub, by the hub's own library."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from chorus.checkpoints.reference import HUB_ID
from chorus.errors import ChorusError, OutputError, UsageError
from chorus.files import expanded, present, shown

LOGIN = "log in with `hf auth login`, or set HF_TOKEN to a token that may write"


@dataclass(frozen=True)
class Upload:
    """Where a directory goes: a repository of the hub, its branch (main where none is named), and with what message.

    >>> Upload("me/whisper-small-pt", private=True).branch
    ''
    """

    repository: str
    private: bool = False
    branch: str = ""
    message: str = ""


def check_upload(to: Upload, *, offline: bool = False) -> None:
    """Raise before any work what would stand in an upload's way: no name, no network, nobody logged in."""
    from huggingface_hub import HfApi, constants, get_token

    if not HUB_ID.fullmatch(to.repository) or ".." in to.repository:
        raise UsageError(
            f"--push-to-hub {shown(to.repository)}: no name of a repository",
            "name it org/name, in letters, digits, '-', '_' and '.'",
        )
    if offline or constants.HF_HUB_OFFLINE:
        raise UsageError("--push-to-hub: offline (--offline, or HF_HUB_OFFLINE is set)", "go online to publish")
    if get_token() is None:
        raise UsageError(f"--push-to-hub {to.repository}: not logged in to the hub", LOGIN)
    with _explained(to):
        HfApi().whoami()


def upload(directory: str | Path, to: Upload) -> str:
    """Upload a model's directory as one commit, its repository and branch made where they are not there; the address.

    Raises `UsageError` for what is no model's directory or where nobody is logged in, `OutputError` where the hub
    refuses or cannot be reached.

    >>> chorus.upload("base-f16", chorus.Upload("me/base-f16", private=True))  # doctest: +SKIP
    """
    from huggingface_hub import HfApi

    place = expanded(directory)
    if not present(place / "config.json"):
        raise UsageError(f"{place}: no model's directory (no config.json)", "chorus export --to hf makes one")
    check_upload(to)
    api = HfApi()
    with _explained(to):
        # one that is there keeps what it is: private or not, as its owner set it
        api.create_repo(to.repository, private=to.private or None, exist_ok=True)
        if to.branch:
            api.create_branch(to.repository, branch=to.branch, exist_ok=True)
        commit = api.upload_folder(
            repo_id=to.repository,
            folder_path=place,
            revision=to.branch or None,
            commit_message=to.message or f"{place.resolve().name}, by Chorus",
        )
    return str(commit.commit_url)


@contextmanager
def _explained(to: Upload) -> Iterator[None]:
    """The hub's refusals in the user's words. No message of its library is shown whole: requests hold the token."""
    from huggingface_hub.errors import HfHubHTTPError

    try:
        yield
    except ChorusError:
        raise
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else 0
        if status == 401:
            raise UsageError(f"{to.repository}: the hub does not know this token (401)", LOGIN) from None
        if status in (403, 404):  # of what may not be seen the hub says that it is not there
            raise OutputError(
                f"{to.repository}: the hub does not let you write there ({status})",
                "check the name; the token needs the right to write, in this organisation",
            ) from None
        told = " ".join(_public(error.server_message or "").split())
        raise OutputError(f"{to.repository}: the hub refused ({status}) {told}".rstrip(), "try again later") from None
    # no connection, in the words of several libraries
    except Exception as error:
        raise OutputError(
            f"{to.repository}: the hub cannot be reached ({type(error).__name__})",
            "check the connection, then upload again: what is there already is not sent twice",
        ) from None


def _public(text: str) -> str:
    """A text without the token, whoever has put it there."""
    from huggingface_hub import get_token

    token = get_token()
    return text.replace(token, "...") if token else text
