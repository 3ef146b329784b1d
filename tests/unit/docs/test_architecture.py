"""docs/architecture/: each name in these pages is one of the code, looked up with its class; each test there exists."""

from __future__ import annotations

import ast
import dataclasses
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from proxy.config.schema import SECTIONS
from tests.unit.docs.pages import ROOT, rows

FOLDER = ROOT / "docs" / "architecture"
TEXTS = {path.stem: path.read_text(encoding="utf-8") for path in sorted(FOLDER.glob("*.md"))}
SOURCES = sorted((ROOT / "proxy").rglob("*.py"))
TESTS = {path.name: path.read_text(encoding="utf-8") for path in sorted((ROOT / "tests").rglob("test_*.py"))}
KEYS = {f"{section}.{item.name}" for section, kind in SECTIONS.items() for item in dataclasses.fields(kind)}

MOST_BYTES = 15_000

FOREIGN = frozenset(
    {
        # PostgreSQL: transaction status, settings, system catalogues, functions, words of SQL
        *("I", "T", "E", "BETWEEN", "IN", "USING"),
        *("application_name", "client_encoding", "default_transaction_read_only", "options", "search_path"),
        *("standard_conforming_strings", "pg_stat_activity", "reset_val", "postgresql"),
        *("date_part", "lo_open", "pg_backend_pid", "pg_get_partition_constraintdef", "pg_typeof", "set_config"),
        *("pg_catalog.lower", "public.lower"),
        # values of keys, a metric, a reason of a close, a step of SCRAM, names of an example
        *("allow", "prefer", "sidecart_catalog_missing", "upstream_flood", "y", "f", "x", "x.f"),
        # Python
        *("auth", "await", "bytes", "is", "len", "now", "write", "sidecart"),
    }
)
"""Words in code type that are none of SideCart's names. Whatever else stands in code type has to be found."""


@dataclasses.dataclass(frozen=True, slots=True)
class Found:
    """A class: what it has itself, what it inherits from, and which classes it holds."""

    members: frozenset[str]
    bases: frozenset[str]
    holds: frozenset[str]


@cache
def trees() -> dict[Path, ast.Module]:
    return {path: ast.parse(path.read_text(encoding="utf-8")) for path in SOURCES}


def assigned(node: ast.AST) -> Iterator[str]:
    """Yield the plain names that a statement binds."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield node.name
    elif isinstance(node, ast.Assign):
        for target in node.targets:
            yield from (each.id for each in ast.walk(target) if isinstance(each, ast.Name))
    elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        yield node.target.id


def of_self(node: ast.AST) -> str:
    """Return NAME of an expression `self.NAME`, or ""."""
    is_self = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self"
    return node.attr if is_self and isinstance(node, ast.Attribute) else ""


def names(node: ast.AST | None) -> set[str]:
    """Return every name of an expression; of `module.Name` the last part."""
    parts = list(ast.walk(node)) if node is not None else []
    return {each.id for each in parts if isinstance(each, ast.Name)} | {
        each.attr for each in parts if isinstance(each, ast.Attribute)
    }


def found_in(node: ast.ClassDef) -> Found:
    members, holds = {name for each in node.body for name in assigned(each)}, set[str]()
    for each in ast.walk(node):
        if isinstance(each, ast.Assign | ast.AnnAssign):
            stored = {of_self(part) for part in (each.targets if isinstance(each, ast.Assign) else [each.target])} - {
                ""
            }
            members |= stored
            if isinstance(each, ast.AnnAssign):
                holds |= names(each.annotation)
            elif stored and isinstance(each.value, ast.Call):
                holds |= names(each.value.func)
        elif isinstance(each, ast.FunctionDef) and each.name == "__init__":
            for argument in (*each.args.args, *each.args.kwonlyargs):
                holds |= names(argument.annotation)
    return Found(frozenset(members), frozenset(name for base in node.bases for name in names(base)), frozenset(holds))


@cache
def classes() -> dict[str, list[Found]]:
    """Return all classes of the project by name; a name that two modules use has two."""
    found: dict[str, list[Found]] = {}
    for tree in trees().values():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                found.setdefault(node.name, []).append(found_in(node))
    return found


@cache
def modules() -> dict[str, set[str]]:
    """Return what each module binds at its top, by the module's own name."""
    found: dict[str, set[str]] = {}
    for path, tree in trees().items():
        found.setdefault(path.stem, set()).update(name for node in tree.body for name in assigned(node))
    return found


def has(kind: str, member: str, known: dict[str, list[Found]] | None = None) -> bool:
    """Whether a class of this name has a member itself, by inheritance, or in an object that it holds."""
    found = classes() if known is None else known
    line, own = [kind], list[Found]()
    for name in line:
        own += found.get(name, [])
        line += [base for each in found.get(name, []) for base in sorted(each.bases) if base not in line]
    held = {name for each in own for name in each.holds}
    return any(member in each.members for each in [*own, *(each for name in held for each in found.get(name, []))])


def in_code_type(text: str) -> set[str]:
    """Return the names that stand in code type, of a call without its arguments."""
    return set(re.findall(r"`([A-Za-z_][\w./*-]*)(?:\([^`]*\))?`", text))


def is_path(name: str) -> bool:
    """Whether a module, a package or a file has this name, with its package before it."""
    for root in (ROOT / "proxy", ROOT / "proxy" / "data", ROOT):
        if any((root / each).exists() for each in (name, f"{name}.py")) or ("*" in name and any(root.glob(name))):
            return True
    return name in TESTS


def exists(name: str) -> bool:
    """Whether a name in code type is one of SideCart's: a path, a key, a class, a module, or a member of either."""
    if name in FOREIGN or name in KEYS or is_path(name):
        return True
    if "/" in name:
        return False
    first, *rest = name.split(".")
    if first in classes():
        return all(has(first, member) for member in rest)
    if first in modules():
        if rest and rest[0] in classes():
            return rest[0] in modules()[first] and all(has(rest[0], member) for member in rest[1:])
        return len(rest) <= 1 and all(member in modules()[first] for member in rest)
    return any(path.parent.name == first for path in SOURCES) and not rest


@pytest.mark.parametrize("page", sorted(set(TEXTS) - {"README"}))
def test_first_page_leads_to_each_other(page: str) -> None:
    assert f"]({page}.md)" in TEXTS["README"]
    assert "](README.md)" in TEXTS[page]


@pytest.mark.parametrize("page", TEXTS)
def test_page_is_short(page: str) -> None:
    """The tables of packages and modules are looked up in, not read."""
    assert len(TEXTS[page].partition("\n## Packages\n")[0].encode()) <= MOST_BYTES


@pytest.mark.parametrize("page", TEXTS)
def test_every_name_exists(page: str) -> None:
    found = in_code_type(TEXTS[page])
    assert len(found) > 20
    assert sorted(name for name in found if not exists(name)) == []


def test_no_foreign_word_is_idle() -> None:
    assert sorted(FOREIGN - {word for text in TEXTS.values() for word in in_code_type(text)}) == []


@pytest.mark.parametrize(
    "name",
    [
        *("Pool.lease", "Client.end", "Pool", "CloseReason", "Phase.LOGIN", "pool.Pool.lease", "tables.RULES"),
        *("pool.retry", "sql/walk", "sql/resolve/", "sql", "protocol", "data/extensions.tsv", "test_pool.py"),
    ],
)
def test_name_is_found(name: str) -> None:
    assert exists(name)


@pytest.mark.parametrize(
    "name",
    [
        *("Pool.feed", "Pool.no_such_method", "pool.Pool.feed", "Phase.NONE", "NoSuchClass", "SKIP_PARSE", "_Greeter"),
        *("_lease", "lease", "tables.lease", "pool.no_such_key", "sql/no_such_module", "data/no_such.tsv"),
    ],
)
def test_name_that_is_nowhere_is_missed(name: str) -> None:
    assert not exists(name)


def test_member_of_a_base_or_of_what_a_class_holds_is_found_and_no_other() -> None:
    source = """
class Base:
    def inherited(self) -> None: ...
class Held:
    slot: int
    def __init__(self, far: Far) -> None:
        self.far = far
class Far:
    def too_far(self) -> None: ...
class Other:
    def elsewhere(self) -> None: ...
class Kind(Base):
    def __init__(self, held: Held) -> None:
        self.held = held
    def own(self) -> None: ...
"""
    known = {node.name: [found_in(node)] for node in ast.parse(source).body if isinstance(node, ast.ClassDef)}
    asked = ["own", "held", "inherited", "slot", "far", "too_far", "elsewhere", "nowhere"]
    assert [member for member in asked if has("Kind", member, known)] == ["own", "held", "inherited", "slot", "far"]


def test_every_module_has_its_job() -> None:
    told = rows(TEXTS["README"], "| package | module | its one job |")
    named = {(row[0].strip("`"), name) for row in told for name in re.findall(r"`(\w+)`", row[1])}
    paths = [path.relative_to(ROOT / "proxy") for path in SOURCES]
    verbs = {"commands", "operating", "preflight", "demo"}  # their files say it themselves
    assert named == {
        ("/".join(path.parts[:-1]), path.stem)
        for path in paths
        if path.stem not in ("__init__", "__main__") and path.parts[0] not in verbs and path.parts[1:2] != ("resolve",)
    }


def test_tests_that_hold_invariants_exist() -> None:
    invariants = rows(TEXTS["invariants"], "| invariant | its home | tests |")
    found = re.findall(r"`(test_\w+\.py)(?:::(test_\w+))?`", "".join(TEXTS.values()))
    assert len(invariants) > 20
    assert all(re.search(r"`test_\w+\.py", row[2]) for row in invariants)
    for file, function in found:
        assert file in TESTS, file
        assert not function or f"def {function}(" in TESTS[file], function
