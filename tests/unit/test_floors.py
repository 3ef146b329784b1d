"""A package imports only what its row names, all of it above that row; what is pure touches neither I/O nor clock."""

from __future__ import annotations

import ast
import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2] / "proxy"
ARCHITECTURE = ROOT.parent / "docs" / "architecture" / "README.md"

# Each package, and each module directly in proxy/, with all that it may import beside its own modules.
MAY_IMPORT = {
    "errors": "",
    "events": "",
    "ours": "",
    "stats": "",
    "tasks": "",
    "system": "errors events",
    "protocol": "errors ours",
    "sql": "errors",
    "filter": "sql",
    "proofs": "sql",
    "role": "proofs sql",
    "config": "errors sql",
    "tls": "config errors system",
    "auth": "config errors",
    "monitor": "errors stats system",
    "pooling": "config errors ours protocol sql stats",
    "session": "auth config errors events filter ours pooling protocol sql stats",
    "clients": "auth config errors pooling protocol session sql system tasks tls",
    "upstream": "auth errors events pooling protocol session stats tasks",
    "databases": "auth config errors events filter pooling proofs protocol role session sql stats system tasks tls"
    " upstream",
    "server": "auth clients config databases errors monitor pooling role session sql stats system tasks",
    "operating": "auth config databases errors filter proofs role sql stats tasks tls",
    "preflight": "config databases errors operating protocol role sql stats tasks tls",
    "demo": "config errors operating",
    "commands": "auth config demo errors filter operating preflight proofs role server sql system tls",
    "cli": "commands",
    "__main__": "cli",
}
PURE = {"errors", "events", "ours", "stats", "protocol", "sql", "filter", "proofs", "role", "config", "auth"} | {
    "pooling",
    "session",
    "clients.activity",
    "clients.client",
    "clients.client_hello",
    "clients.greeting",
    "clients.lobby",
    "clients.time_limits",
    "databases.diagnosis",
    "monitor.repeats",
    "tls.certificates",
}
IMPURE = {"asyncio", "socket", "ssl", "logging", "prometheus_client", "time", "uvloop", "selectors", "threading"}
CLOCKS = {"now", "utcnow", "today"}
DATES = {"datetime", "date"}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = sorted(path for path in ROOT.rglob("*.py") if module_name(path))
NAMES = {module_name(path) for path in MODULES}


def pure(name: str) -> bool:
    return name in PURE or name.partition(".")[0] in PURE


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


def of_ours(name: str, source: str, *, is_package: bool = False) -> dict[str, str]:
    """Return what a module imports of the project: the name as it is imported, and its module, "" if there is none."""
    full = f"proxy.{name}"
    found = {}
    for imported in imports(source, full if is_package else full.rpartition(".")[0]):
        package, _, rest = imported.partition(".")
        if package == "proxy" and rest != "__version__":
            # proxy.demo.shop.create is of proxy.demo.shop, proxy.errors.X of proxy.errors.
            found[imported] = next((known for known in (rest, rest.rpartition(".")[0]) if known in NAMES), "")
    return found


def violations(name: str, source: str, *, is_package: bool = False) -> list[str]:
    """Return what a module of this name must not import."""
    package = name.partition(".")[0]
    allowed = {package, *MAY_IMPORT[package].split()}
    wrong = []
    for imported, target in sorted(of_ours(name, source, is_package=is_package).items()):
        if not target:
            wrong.append(f"{imported} is no module of proxy/")
        elif target.partition(".")[0] not in allowed:
            wrong.append(f"{package} may not import {imported}")
    if pure(name):
        foreign = imports(source, f"proxy.{name}")
        wrong += [f"{each} in a pure module" for each in sorted(foreign) if each.partition(".")[0] in IMPURE]
    return wrong


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_module_imports_what_its_package_may(path: Path) -> None:
    name = module_name(path)
    assert name.partition(".")[0] in MAY_IMPORT, f"proxy/{path.relative_to(ROOT)} has no row: add it to MAY_IMPORT"
    assert violations(name, path.read_text(encoding="utf-8"), is_package=path.stem == "__init__") == []


def test_packages_form_no_circle() -> None:
    above: set[str] = set()
    for package, allowed in MAY_IMPORT.items():
        assert set(allowed.split()) <= above, f"{package} imports what stands below it"
        above.add(package)


def test_modules_form_no_circle() -> None:
    graph = {
        module_name(path): set(
            of_ours(module_name(path), path.read_text(encoding="utf-8"), is_package=path.stem == "__init__").values()
        )
        for path in MODULES
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"imports in a circle: {error.args[1]}")


def test_no_row_allows_what_nobody_imports() -> None:
    used: dict[str, set[str]] = {}
    for path in MODULES:
        name = module_name(path)
        found = of_ours(name, path.read_text(encoding="utf-8"), is_package=path.stem == "__init__")
        used.setdefault(name.partition(".")[0], set()).update(target.partition(".")[0] for target in found.values())
    idle = {package: set(allowed.split()) - used.get(package, set()) for package, allowed in MAY_IMPORT.items()}
    assert {package: names for package, names in idle.items() if names and package != "cli"} == {}


def test_architecture_draws_the_same_table() -> None:
    page = ARCHITECTURE.read_text(encoding="utf-8").partition("| may import |")[2].partition("\n\n")[0]
    drawn = re.findall(r"^\| `(\w+)` \| [^|]+ \| ([a-z_, ]*) \|$", page, re.MULTILINE)
    assert {name: " ".join(may.replace(",", "").split()) for name, may in drawn} == {
        name: may for name, may in MAY_IMPORT.items() if (ROOT / name).is_dir()
    }


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


def test_project_itself_imports_nothing() -> None:
    assert imports((ROOT / "__init__.py").read_text(encoding="utf-8")) <= {"__future__.annotations"}


@pytest.mark.parametrize(
    "source",
    [
        "import asyncio",
        "from ssl import SSLContext",
        "def f():\n    import socket",
        "from proxy.clients.client import Client",
        "from proxy.databases import databases",
        "from proxy.server import run",
        "import proxy.upstream",
        "from proxy import nowhere",
        "from ..databases.databases import Databases",
        "from ..system import turns",
    ],
)
def test_violation_is_found(source: str) -> None:
    assert violations("session.ledger", source)
