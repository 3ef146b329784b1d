"""A module imports only from floors below its own, and pure floors touch neither I/O nor clock."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2] / "proxy"

# From the ground up. docs/architecture.md draws these floors with a coarser brush; what counts is this list.
PURE = (
    "ours events",
    "errors conversions stats verdict snapshot sent policy values naming environment client_hello repeats"
    " sql sql.versions sql.resolve.oids",
    "sql.resolve.world",
    "sql.resolve.rows sql.resolve.search sql.resolve.coercion sql.resolve.tree",
    "sql.resolve.hidden sql.resolve.built_in",
    "sql.resolve.choosing",
    "sql.resolve.analysis",
    "sql.resolve.names sql.resolve.scopes",
    "sql.resolve.calls sql.resolve.sorting",
    "sql.resolve.variables",
    "sql.resolve.documents sql.resolve.sql_json",
    "sql.resolve.expressions",
    "sql.resolve.from_clause",
    "sql.resolve.queries",
    "sql.resolve",
    "config rules cache constants certificates unnamed catalog",
    "loading protocol walk refusals settings text operands shape catalog_rows candidates taints roles ledger pool"
    " statements scram quotas",
    "guard picked",
    "replies functions scope role_probe users auth own_answer bound",
    "unread reach findings access by_name",
    "judgement lobby",
    "diagnosis",
    "conditions",
    "filter plpgsql",
    "bodies paths",
    "house login observe prove",
    "judging linked",
    "carrying",
    "answering",
    "session",
    "greeting",
    "client",
    "activity",
)
WITH_IO = (
    "files",
    "audit metrics console web tls tls_layer tasks turns watch unix_socket",
    "judge upstream aws addresses",
    "catalogues credentials role_watch poolers doors",
    "connector",
    "backends",
    "server",
    # The command: programs that verbs share, the verbs, the command itself.
    "commands commands.usage",
    "workers commands.private_ca commands.starting commands.script commands.catalogue",
    "commands.asking commands.terminal commands.pieces commands.reaching",
    "commands.embedded commands.offline commands.explaining commands.examining commands.readonly_role",
    "commands.shop",
    "commands.inspection commands.own_doors",
    "commands.demo commands.health commands.serve commands.check commands.rules commands.doctor commands.role"
    " commands.hash_password",
    "commands.preflight commands.sessions",
    "cli",
    "__main__",
)
FLOORS = {name: number for number, names in enumerate(PURE + WITH_IO) for name in names.split()}
IMPURE = {"asyncio", "socket", "ssl", "logging", "prometheus_client", "time", "uvloop", "selectors", "threading"}
CLOCKS = {"now", "utcnow", "today"}
DATES = {"datetime", "date"}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def pure(name: str) -> bool:
    return FLOORS.get(name, len(PURE)) < len(PURE)


def imports(source: str, package: str = "proxy") -> set[str]:
    """Return the full names of everything that a module of this package imports, wherever the import stands."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            found.update(f"{base}.{alias.name}" for alias in node.names)
    return found


def violations(name: str, source: str, *, is_package: bool = False) -> list[str]:
    """Return what a module of this name must not import."""
    floor = FLOORS[name]
    wrong = []
    full = f"proxy.{name}"
    for imported in sorted(imports(source, full if is_package else full.rpartition(".")[0])):
        package, _, rest = imported.partition(".")
        if package == "proxy":
            # proxy.commands.shop.create is of proxy.commands.shop, proxy.errors.X of proxy.errors.
            target = next((known for known in (rest, rest.rpartition(".")[0]) if known in FLOORS), "")
            if rest == "__version__":
                continue
            if not target:
                wrong.append(f"{imported} is on no floor")
            elif FLOORS[target] >= floor:
                wrong.append(f"{imported} is on floor {FLOORS[target]}, not below {floor}")
        elif pure(name) and package in IMPURE:
            wrong.append(f"{imported} in a pure module")
    return wrong


MODULES = sorted(path for path in ROOT.rglob("*.py") if module_name(path))


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_module_imports_only_from_floors_below(path: Path) -> None:
    name = module_name(path)
    assert name in FLOORS, f"proxy/{path.relative_to(ROOT)} is on no floor: add it to FLOORS"
    assert violations(name, path.read_text(encoding="utf-8"), is_package=path.stem == "__init__") == []


def clock_calls(source: str) -> list[str]:
    """Return calls such as datetime.now(); a port that hands in the time, self.house.now(), is another matter."""
    return [
        ast.unparse(node)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Attribute) and node.attr in CLOCKS and ast.unparse(node.value).split(".")[0] in DATES
    ]


@pytest.mark.parametrize("path", [path for path in MODULES if pure(module_name(path))], ids=module_name)
def test_pure_module_reads_no_clock(path: Path) -> None:
    assert clock_calls(path.read_text(encoding="utf-8")) == []


def test_clock_call_is_found() -> None:
    assert clock_calls("import datetime\nx = datetime.datetime.now()") == ["datetime.datetime.now"]
    assert clock_calls("x = self.house.now()") == []


def test_package_itself_imports_nothing() -> None:
    assert imports((ROOT / "__init__.py").read_text(encoding="utf-8")) <= {"__future__.annotations"}


@pytest.mark.parametrize(
    "source",
    [
        "import asyncio",
        "from ssl import SSLContext",
        "def f():\n    import socket",
        "from proxy.pool import Pool",
        "from proxy import replies",
        "from proxy.server import run",
        "import proxy.filter",
        "from proxy import nowhere",
        "from .pool import Pool",
        "from . import replies",
    ],
)
def test_violation_is_found(source: str) -> None:
    assert violations("ledger", source)
