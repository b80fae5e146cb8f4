"""`chorus doctor`."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import TypedDict

import click

from chorus._version import __version__
from chorus.cli.flags import json_flag
from chorus.cli.output import as_json
from chorus.errors import install_hint
from chorus.runtime import cores
from chorus.sizes import size

DISTRIBUTION = "chorus-merge"


class CacheFacts(TypedDict):
    """Where a cache is, and its bytes."""

    path: str
    exists: bool
    bytes: int


class Installation(TypedDict):
    """What is installed, and what is missing: packages by version, extras by the packages that they lack."""

    chorus: str
    python: str
    platform: str
    cores: int
    packages: dict[str, str | None]
    devices: dict[str, str]
    extras: dict[str, list[str]]
    caches: dict[str, CacheFacts]


@click.command("doctor")
@json_flag("As JSON.")
def command(json_: bool) -> None:
    """Show what this installation has: versions, devices, extras and caches. For bug reports."""
    facts = examine()
    if json_:
        as_json(facts)
        return
    click.echo(f"chorus {facts['chorus']} (distribution {DISTRIBUTION}), Python {facts['python']}, {facts['platform']}")
    click.echo("\npackages")
    for name, found in facts["packages"].items():
        click.echo(f"  {name:<18} {found or 'missing'}")
    click.echo("\ndevices")
    for device, remark in facts["devices"].items():
        click.echo(f"  {device:<18} {remark}")
    click.echo("\nextras")
    for extra, missing in facts["extras"].items():
        state = f"missing {', '.join(missing)}; {install_hint(extra)}" if missing else "installed"
        click.echo(f"  {extra:<18} {state}")
    click.echo("\ncaches")
    for name, cache in facts["caches"].items():
        click.echo(f"  {name:<18} {cache['path']}  ({size(cache['bytes']) if cache['exists'] else 'not there yet'})")


def examine() -> Installation:
    """Everything that `chorus doctor` shows."""
    return {
        "chorus": __version__,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "cores": cores(),
        "packages": {name: _version(name) for name in _required("")},
        "devices": _devices(),
        "extras": {extra: [n for n in _required(extra) if _version(n) is None] for extra in _extras()},
        "caches": _caches(),
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _extras() -> list[str]:
    from importlib.metadata import metadata

    # it is the others together
    return [e for e in metadata(DISTRIBUTION).get_all("Provides-Extra") or [] if e != "all"]


def _required(extra: str) -> list[str]:
    """Names of the distributions that the core (extra "") or an extra asks for."""
    names = []
    for line in requires(DISTRIBUTION) or []:
        requirement, _, marker = line.partition(";")
        asked = marker.split("==")[-1].strip(" '\"") if "extra" in marker else ""
        if asked == extra:
            # by hand: packaging, which parses these, is no dependency of ours
            names.append(requirement.split("[")[0].split(">")[0].split("<")[0].split("=")[0].split("!")[0].strip())
    return names


def _devices() -> dict[str, str]:
    import torch

    devices = {"cpu": f"{torch.get_num_threads()} threads"}
    for i in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        properties = torch.cuda.get_device_properties(i)
        devices[f"cuda:{i}"] = f"{properties.name}, {size(properties.total_memory)}"
    if torch.backends.mps.is_available():
        devices["mps"] = "Apple GPU"
    if hasattr(torch, "xpu") and torch.xpu.is_available():
        devices["xpu"] = "Intel GPU"
    return devices


def _caches() -> dict[str, CacheFacts]:
    from huggingface_hub import constants

    from chorus.cache import directory

    places = {
        "spectra": directory(),
        "hub": Path(constants.HF_HUB_CACHE),
        # numba keeps what it has compiled beside the module
        "compiled kernels": Path(__file__).parents[1] / "linalg" / "__pycache__",
    }
    found: dict[str, CacheFacts] = {}
    for name, path in places.items():
        # the hub's snapshots are links to its blobs: counted once
        files = [p for p in path.rglob("*") if p.is_file() and not p.is_symlink()] if path.is_dir() else []
        found[name] = {"path": str(path), "exists": path.is_dir(), "bytes": sum(p.stat().st_size for p in files)}
    return found
