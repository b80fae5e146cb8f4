"""What holds for the whole of the source: sizes, names, imports, types, words."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from itertools import chain
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "chorus"
FILES = sorted(PACKAGE.rglob("*.py"))
FUNCTION_LINES, FILE_LINES = 60, 400
ANY_WORDS, IGNORES = 150, 4
SILENT = 16  # public functions and classes of modules without a docstring
COMMENTS = 0.039  # of all lines: what says why
TESTS_TO_SOURCE = 0.55

Function = ast.FunctionDef | ast.AsyncFunctionDef


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def comments(path: Path) -> list[str]:
    lines = io.StringIO(path.read_text(encoding="utf-8")).readline
    return [t.string for t in tokenize.generate_tokens(lines) if t.type == tokenize.COMMENT]


def lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def module_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in FILES}


def told(found: list[str]) -> str:
    return f"{len(found)}:\n" + "\n".join(found)


def size_without_docstring(function: Function) -> int:
    size = (function.end_lineno or 0) - function.lineno + 1
    if ast.get_docstring(function, clean=False) is None:
        return size
    first = function.body[0]
    return size - ((first.end_lineno or 0) - first.lineno + 1)


# ---- sizes ----


def test_no_function_is_long():
    functions = [(p, n) for p in FILES for n in ast.walk(tree(p)) if isinstance(n, Function)]
    sizes = sorted((size_without_docstring(n), f"{module_of(p)}.{n.name}") for p, n in functions)
    assert len(sizes) > 1000
    assert [f"{size} lines: {name}" for size, name in sizes if size > FUNCTION_LINES] == []
    assert sizes[len(sizes) // 2][0] <= 12, "the median function"


def test_no_file_is_long():
    assert len(FILES) > 150
    assert [f"{p.name}: {lines(p)} lines" for p in FILES if lines(p) > FILE_LINES] == []


def test_there_are_tests_enough_for_the_source():
    """Lines of Python; the golden fixtures are data and do not count."""
    tests = sum(map(lines, (ROOT / "tests").rglob("*.py")))
    source = sum(map(lines, FILES))
    assert tests >= TESTS_TO_SOURCE * source, f"{tests} lines of tests, {source} of source: {tests / source:.3f}"


# ---- names ----


def test_a_class_s_name_stands_once():
    places = defaultdict(list)
    for path in FILES:
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.ClassDef):
                places[node.name].append(module_of(path))
    assert len(places) > 150
    twice = [f"{name}: {', '.join(where)}" for name, where in sorted(places.items()) if len(where) > 1]
    assert twice == []


def test_every_module_says_what_it_is_for():
    assert [name for name, path in MODULES.items() if not ast.get_docstring(tree(path))] == []


def test_what_is_public_says_what_it_does():
    public, silent = 0, []
    for name, path in MODULES.items():
        for node in tree(path).body:
            if isinstance(node, (*Function.__args__, ast.ClassDef)) and not node.name.startswith("_"):
                public += 1
                if not ast.get_docstring(node):
                    silent.append(f"{name}.{node.name}")
    assert public > 600
    assert len(silent) <= SILENT, told(silent)


# ---- imports ----


def is_for_types(node: ast.AST) -> bool:
    """`if TYPE_CHECKING:`, which no one runs."""
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def statements(node: ast.AST) -> Iterator[ast.stmt]:
    """Every import below `node`, inside functions too, but not those for types."""
    for child in ast.iter_child_nodes(node):
        if is_for_types(child):
            assert isinstance(child, ast.If)
            yield from chain.from_iterable(statements(other) for other in child.orelse)
        elif isinstance(child, ast.Import | ast.ImportFrom):
            yield child
        else:
            yield from statements(child)


def imported(node: ast.stmt) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names if alias.name in MODULES)
    elif isinstance(node, ast.ImportFrom) and node.module in MODULES:
        for alias in node.names:
            whole = f"{node.module}.{alias.name}"
            yield whole if whole in MODULES else node.module


def graph() -> dict[str, set[str]]:
    """What each module imports of ours, at the top and inside functions."""
    return {name: {m for s in statements(tree(path)) for m in imported(s)} for name, path in MODULES.items()}


def circles(edges: dict[str, set[str]]) -> list[list[str]]:
    """Strongly connected components of more than one module (Tarjan 1972)."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        order[name] = low[name] = len(order)
        stack.append(name)
        for other in edges[name]:
            if other not in order:
                visit(other)
            if other in stack:
                low[name] = min(low[name], low[other])
        if low[name] == order[name]:
            i = stack.index(name)
            ring = stack[i:]
            del stack[i:]
            if len(ring) > 1:
                found.append(sorted(ring))

    for name in edges:
        if name not in order:
            visit(name)
    return found


def test_the_circles_of_a_graph_are_found():
    edges = {"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": set(), "e": {"a", "f"}, "f": {"e"}}
    assert sorted(circles(edges)) == [["b", "c"], ["e", "f"]]


def test_no_modules_import_each_other_in_a_circle():
    edges = graph()
    assert sum(map(len, edges.values())) > 600
    assert "chorus.errors" in edges["chorus.cli.main"]
    assert [" <-> ".join(ring) for ring in circles(edges)] == []


def test_nothing_hides_an_import_of_ours_in_a_string():
    """`import_module("chorus....")` is for the commands, the public names and the methods: tables, not ways round."""
    hidden = [
        f"{name}: {ast.unparse(node)}"
        for name, path in MODULES.items()
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("import_module", "importlib.import_module")
        and any(isinstance(a, ast.Constant) and str(a.value).startswith("chorus") for a in node.args)
    ]  # fmt: skip
    assert hidden == []


# ---- types and comments ----


def test_any_is_rare():
    words = {p: len(re.findall(r"\bAny\b", p.read_text(encoding="utf-8"))) for p in FILES}
    worst = sorted(((n, module_of(p)) for p, n in words.items() if n), reverse=True)
    assert sum(words.values()) <= ANY_WORDS, told([f"{n} in {name}" for n, name in worst[:40]])


def test_the_type_checker_is_hardly_ever_silenced():
    found = [f"{module_of(p)}: {c}" for p in FILES for c in comments(p) if "type: ignore" in c]
    assert len(found) <= IGNORES, told(found)
    assert [one for one in found if "type: ignore[" not in one] == [], "say which complaint"


def test_comments_say_why_and_are_not_rare():
    said = [c for p in FILES for c in comments(p) if not re.match(r"# (fmt|noqa|type|pragma)\b", c)]
    share = len(said) / sum(map(lines, FILES))
    assert share >= COMMENTS, f"{share:.4f}"


def test_no_code_is_commented_out():
    def is_code(text: str) -> bool:
        try:
            body = ast.parse(text).body
        except SyntaxError:
            return False
        statement = body[0] if body else None
        calls = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call)
        return calls or isinstance(statement, ast.Assign | ast.Return | ast.Import | ast.ImportFrom)

    found = [f"{module_of(p)}: {c}" for p in FILES for c in comments(p) if is_code(c.lstrip("# "))]
    assert found == []
