"""Write what the registry knows into the pages: docs/methods.md, and the README's table of methods. `make tables`."""

from __future__ import annotations

import re
from pathlib import Path

from chorus.merge.catalogue import overview, pages
from chorus.merge.method import METHODS

ROOT = Path(__file__).parents[1]


def between(text: str, name: str, body: str) -> str:
    """A page with other lines between `<!-- NAME:begin -->` and `<!-- NAME:end -->`, each of which stands once."""
    marks = re.compile(f"(<!-- {name}:begin -->\n).*?(<!-- {name}:end -->)", re.DOTALL)
    changed, count = marks.subn(lambda found: f"{found[1]}{body}\n{found[2]}", text)
    if count != 1:
        raise ValueError(f"{count} places marked {name}:begin to {name}:end; one is needed")
    return changed


def generated() -> dict[Path, str]:
    """Every page that is made, or holds something made -> its text as the registry has it now."""
    readme = ROOT / "README.md"
    table = overview(METHODS, "docs/methods.md")
    return {
        ROOT / "docs" / "methods.md": pages(METHODS) + "\n",
        readme: between(readme.read_text(encoding="utf-8"), "methods", table),
    }


if __name__ == "__main__":
    for path, text in generated().items():
        path.write_text(text, encoding="utf-8")
        print(path.relative_to(ROOT))
