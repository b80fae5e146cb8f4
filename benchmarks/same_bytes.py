"""Claim: a change of the code changes no merged byte. Every method on tiny Whisper and Qwen models, two commits.

    python benchmarks/same_bytes.py --before HEAD~1

Models, adapters and recipes are made once; each commit's own code merges them, as models and as adapters, in two block
sizes, and the digests of the files of weights are compared.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CHILD = """
import hashlib, json, sys, traceback
from pathlib import Path
import chorus
recipes, out = Path(sys.argv[1]), Path(sys.argv[2])
found = {}
def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()
for recipe in sorted(recipes.glob("*.yml")):
    for blocks in (65536, 1 << 20):
        place = out / f"{recipe.stem}-{blocks}"
        try:
            if recipe.stem.startswith("adapter-"):
                rule = chorus.RankRule(max_rank=4)
                chorus.merge_into_adapter(str(recipe), place, chorus.Options(block_values=blocks), ranks=rule)
            else:
                chorus.merge(str(recipe), place, chorus.Options(block_values=blocks, jobs=2))
            for file in sorted(place.rglob("*.safetensors")):
                found[f"{recipe.stem} {blocks} {file.relative_to(place)}"] = digest(file)
        except Exception as error:
            traceback.print_exc()
            found[f"{recipe.stem} {blocks}"] = f"{type(error).__name__}"
json.dump(found, sys.stdout)
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", required=True, help="a commit, or a checkout of one")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        sys.path.insert(0, str(ROOT / "tests"))
        count = write_recipes(place)
        source = Path(chosen.before)
        tree = place / "before"
        if not source.is_dir():
            subprocess.run(["git", "worktree", "add", "-q", tree, chosen.before], cwd=ROOT, check=True)
            source = tree
        try:
            before, after = (digests(tree_, place / name) for tree_, name in ((source, "old"), (ROOT, "new")))
        finally:
            if source == tree:
                subprocess.run(["git", "worktree", "remove", "--force", tree], cwd=ROOT, check=True)
    return report(count, before, after)


def digests(tree: Path, out: Path) -> dict[str, str]:
    """What a checkout's code makes of the recipes."""
    environment = {**os.environ, "PYTHONPATH": str(tree / "src"), "CHORUS_CACHE_LIMIT": "0", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", CHILD, str(out.parent / "recipes"), str(out)]
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE)
    made: dict[str, str] = json.loads(done.stdout)
    return made


def write_recipes(place: Path) -> int:
    """A recipe a method and family, with and without a base where both can be, and of adapters; returns how many."""
    from adapters import make_adapters
    from chorus.merge.method import METHODS
    from chorus.testing import example_parameters
    from models import make_family, write_recipe

    recipes = place / "recipes"
    recipes.mkdir()
    names: list[str] = []

    def write(name: str, recipe: dict[str, object]) -> None:
        names.append(name)
        write_recipe(recipes / f"{name}.yml", {**recipe, "seed": 3})

    for kind in ("qwen2", "whisper"):
        family = make_family(place / kind, kind, 3)
        base, adapters = make_adapters(place / f"{kind}-adapters", kind, 3)
        for method in METHODS:
            count = method.models[1] or 3
            given = example_parameters(method, count)
            each = [{k: v[i] for k, v in given.items() if isinstance(v, list)} for i in range(count)]
            shared = {k: v for k, v in given.items() if not isinstance(v, list)}
            taken = count - 1 if method.base in ("input", "first") and method.models[1] else count
            for with_base in (True, False) if method.base == "optional" else (method.base not in ("input", "first"),):
                for dtype in ("float32", "bfloat16"):
                    recipe = family.recipe(method.name, count, base=with_base, parameters=shared, each=each)
                    write(f"{kind}-{method.name}-{with_base}-{dtype}", {**recipe, "out_dtype": dtype})
            if method.space == "deltas" and method.models[1] is None and taken:
                models = [
                    {"model": str(base), "lora": str(a), "parameters": p} for a, p in zip(adapters, each, strict=True)
                ]
                recipe = {"merge_method": method.name, "base_model": str(base), "models": models, "parameters": shared}
                write(f"{kind}-lora-{method.name}", recipe)
                write(f"adapter-{kind}-{method.name}", recipe)
        for inner in ("ties", "dare_ties", "breadcrumbs"):
            each = [{"weight": 0.4, "density": 0.5}] * 3
            boosted = family.recipe("subspace_boosting", 3, each=each, parameters={"inner": inner, "beta": 0.3})
            write(f"{kind}-boosted-{inner}", boosted)
    return len(names)


def report(count: int, before: dict[str, str], after: dict[str, str]) -> int:
    different = sorted(k for k in before.keys() | after.keys() if before.get(k) != after.get(k))
    failed = [k for k, v in before.items() if v.endswith("Error")]
    for name in different:
        print(f"differs: {name}: {before.get(name)} {after.get(name)}")
    print(f"{count} recipes, {len(before)} files of weights ({len(failed)} refused by both), {len(different)} differ")
    return 1 if different else 0


if __name__ == "__main__":
    raise SystemExit(main())
