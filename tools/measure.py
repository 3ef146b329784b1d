"""Measure proxy/ against its bounds: how long, how wide and how branched code is, and what one query has to cross.

Run it as `.venv/bin/python -m tools.measure`. It prints what is over a bound, then the calls for a query; it exits with
1 if anything is over. tests/unit/test_measure.py holds the same bounds.

What counts:

- Lines of a module: all of them. Lines of a function: from its `def` to its last, without decorators, and with whatever
  is defined in it.
- Methods of a class: the names that it or a class of the project above it defines, once each; a property is one.
- Attributes of a class: likewise the names in `__slots__`, those annotated in its body, and all that a method assigns
  to `self.` (or whatever its first argument is called), unless a method has the name.
- Branches of a function: one for each `if`, `elif`, `for`, `while`, `except`, conditional expression, `case`, `if` in a
  comprehension, and each `and` and `or` between two operands; what is defined in it counts for it. `else`, `finally`,
  `with` and `assert` are none.
- Modules of a package: the files directly in proxy/; whoever opens it sees all of them at once.
- Circles: packages that import each other, wherever in a module the import stands. A module directly in proxy/ counts
  as a package.
- Calls: Python functions in proxy/ that are entered, generators that go on included, comprehensions not: newer Pythons
  make no call of them. Modules: those that the functions are of, for each way.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from types import FrameType

import click

PROJECT = "proxy"
ROOT = Path(__file__).parents[1] / PROJECT

MODULE_LINES, FUNCTION_LINES, FUNCTION_BRANCHES = "lines of a module", "lines of a function", "branches of a function"
METHODS, ATTRIBUTES = "methods of a class", "attributes of a class"
TOP_MODULES, CIRCLE = "modules directly in proxy/", "packages in a circle"
OUT, BACK = "calls out", "calls back"
MODULES_OUT, MODULES_BACK = "modules crossed out", "modules crossed back"
BOUNDS = {
    MODULE_LINES: 600,
    METHODS: 40,
    ATTRIBUTES: 25,
    FUNCTION_LINES: 60,
    FUNCTION_BRANCHES: 12,
    TOP_MODULES: 12,
    CIRCLE: 0,
    OUT: 12,
    BACK: 8,
    MODULES_OUT: 6,
    MODULES_BACK: 6,
}
Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
BRANCHES = (
    ast.If,
    ast.For,
    ast.AsyncFor,
    ast.While,
    ast.ExceptHandler,
    ast.IfExp,
    ast.match_case,
)


@dataclass(frozen=True, slots=True, order=True)
class Size:
    """One thing that was counted: what, where (a dotted name below proxy/), and how many."""

    what: str
    where: str
    count: int

    @property
    def over(self) -> bool:
        """Tell whether it is more than allowed."""
        return self.count > BOUNDS[self.what]


class Sources:
    """The modules of a project by their names below it ("" is the project itself), as text and parsed."""

    def __init__(self, texts: Mapping[str, str], packages: Iterable[str] = ()) -> None:
        self.texts = dict(texts)
        self.packages = {"", *packages}
        self.trees = {name: ast.parse(text) for name, text in texts.items()}

    @classmethod
    def read(cls, root: Path = ROOT) -> Sources:
        """Read every module below a folder."""
        texts, packages = {}, []
        for path in sorted(root.rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            if parts[-1] == "__init__":
                parts = parts[:-1]
                packages.append(".".join(parts))
            texts[".".join(parts)] = path.read_text(encoding="utf-8")
        return cls(texts, packages)

    def imported(self, name: str) -> dict[str, str]:
        """Return what a module imports of the project: the name that it gives to it, and where that stands."""
        found = {}
        above = name.split(".") if name in self.packages else name.split(".")[:-1]
        for node in ast.walk(self.trees[name]):
            if isinstance(node, ast.ImportFrom):
                base = [PROJECT, *above][: len(above) + 2 - node.level] if node.level else []
                base += node.module.split(".") if node.module else []
                if base[:1] == [PROJECT]:
                    found.update({each.asname or each.name: ".".join([*base[1:], each.name]) for each in node.names})
            elif isinstance(node, ast.Import):
                for each in node.names:
                    if each.name.startswith(f"{PROJECT}."):
                        found[each.asname or each.name] = each.name.removeprefix(f"{PROJECT}.")
        return found

    def module_of(self, full: str) -> str | None:
        """Return the module that a dotted name is, or is a name of; None if there is none of this project."""
        return next((known for known in (full, full.rpartition(".")[0]) if known in self.trees), None)


# --- lines and branches ----------------------------------------------------------------------------------------------


def modules(sources: Sources) -> Iterator[Size]:
    """Count the lines of each module, and the modules directly in the project."""
    for name, text in sources.texts.items():
        yield Size(MODULE_LINES, name or PROJECT, len(text.splitlines()))
    flat = [name for name in sources.texts if "." not in name and (name not in sources.packages or not name)]
    yield Size(TOP_MODULES, PROJECT, len(flat))


def functions(sources: Sources) -> Iterator[Size]:
    """Count lines and branches of each function that stands in a module or a class."""
    for module, tree in sources.trees.items():
        for name, node in _defined(tree, module):
            if not isinstance(node, ast.ClassDef):
                yield Size(FUNCTION_LINES, name, (node.end_lineno or node.lineno) - node.lineno + 1)
                yield Size(FUNCTION_BRANCHES, name, branches(node))


def branches(function: ast.AST) -> int:
    """Count the places in a function where its way can part."""
    count = 0
    for node in ast.walk(function):
        if isinstance(node, BRANCHES):
            count += 1
        elif isinstance(node, ast.BoolOp):
            count += len(node.values) - 1
        elif isinstance(node, ast.comprehension):
            count += len(node.ifs)
    return count


def _defined(parent: ast.AST, prefix: str) -> Iterator[tuple[str, Definition]]:
    """Give classes, and the functions of modules and classes, with their full names."""
    for node in _scope(parent):
        name = f"{prefix}.{node.name}"
        yield name, node
        if isinstance(node, ast.ClassDef):
            yield from _defined(node, name)


def _scope(parent: ast.AST) -> Iterator[Definition]:
    """Give what is defined in a scope; an `if`, a `try` or a `with` makes none of its own."""
    for node in ast.iter_child_nodes(parent):
        if isinstance(node, (*FUNCTIONS, ast.ClassDef)):
            yield node
        else:
            yield from _scope(node)


# --- classes ---------------------------------------------------------------------------------------------------------


def classes(sources: Sources) -> Iterator[Size]:
    """Count methods and attributes of each class, those included that it inherits within the project."""
    found = {
        name: (module, node)
        for module, tree in sources.trees.items()
        for name, node in _defined(tree, module)
        if isinstance(node, ast.ClassDef)
    }
    known = {module: sources.imported(module) for module in sources.trees}
    for name in found:
        methods: set[str] = set()
        attributes: set[str] = set()
        for each in _line(name, found, known):
            node = found[each][1]
            methods |= _methods(node)
            attributes |= _attributes(node)
        yield Size(METHODS, name, len(methods))
        yield Size(ATTRIBUTES, name, len(attributes - methods))


def _line(name: str, found: Mapping[str, tuple[str, ast.ClassDef]], known: Mapping[str, Mapping[str, str]]) -> set[str]:
    """Return a class and all above it that the project defines."""
    line: set[str] = set()
    todo = [name]
    while todo:
        each = todo.pop()
        if each in line or each not in found:
            continue
        line.add(each)
        module, node = found[each]
        for base in node.bases:
            while isinstance(base, ast.Subscript):  # Generic[…] of ours
                base = base.value
            written = ast.unparse(base)
            first, _, rest = written.partition(".")
            here = known[module].get(first)
            todo.append(f"{module}.{written}" if here is None else f"{here}.{rest}" if rest else here)
    return line


def _methods(node: ast.ClassDef) -> set[str]:
    return {each.name for each in _scope(node) if isinstance(each, FUNCTIONS)}


def _attributes(node: ast.ClassDef) -> set[str]:
    found: set[str] = set()
    for each in node.body:
        if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name):
            found.add(each.target.id)
        elif isinstance(each, ast.Assign) and any(ast.unparse(target) == "__slots__" for target in each.targets):
            found |= {str(part.value) for part in ast.walk(each.value) if isinstance(part, ast.Constant)}
    for method in _scope(node):
        if isinstance(method, FUNCTIONS) and method.args.args:
            found |= _assigned(method, method.args.args[0].arg)
    return found


def _assigned(method: ast.AST, owner: str) -> set[str]:
    """Return the attributes of a name that are assigned to anywhere in a method."""
    return {
        part.attr
        for part in ast.walk(method)
        if isinstance(part, ast.Attribute)
        and isinstance(part.ctx, ast.Store)
        and isinstance(part.value, ast.Name)
        and part.value.id == owner
    }


# --- packages --------------------------------------------------------------------------------------------------------


def circles(sources: Sources) -> Iterator[Size]:
    """Count the packages that stand in a circle of imports, one circle after the other."""
    graph: dict[str, set[str]] = {}
    for name in sources.trees:
        package = name.partition(".")[0]
        targets = {sources.module_of(full) for full in sources.imported(name).values()}
        graph.setdefault(package, set()).update({each.partition(".")[0] for each in targets if each} - {package})
    while True:
        try:
            TopologicalSorter(graph).prepare()
        except CycleError as error:
            circle: list[str] = error.args[1]  # each is imported by the one behind it
            yield Size(CIRCLE, " -> ".join(reversed(circle)), len(circle) - 1)
            graph[circle[1]].discard(circle[0])
        else:
            return


def sizes(sources: Sources) -> list[Size]:
    """Return all that can be counted in the sources, kind by kind, the largest first."""
    found = [*modules(sources), *classes(sources), *functions(sources), *circles(sources)]
    kinds = list(BOUNDS)
    return sorted(found, key=lambda size: (kinds.index(size.what), -size.count, size.where))


# --- calls for a query -----------------------------------------------------------------------------------------------

COMPREHENSIONS = {"<listcomp>", "<dictcomp>", "<setcomp>"}


@dataclass(slots=True)
class Trail:
    """The functions of a folder that were entered, in order, as pairs of file and name."""

    folder: str
    entered: list[tuple[str, str]]

    @property
    def modules(self) -> set[str]:
        return {file for file, _name in self.entered}


def trail(call: Callable[[], object], folder: Path = ROOT) -> Trail:
    """Call something, and return which functions of a folder that enters."""
    found = Trail(f"{folder}/", [])

    def look(frame: FrameType, event: str, _argument: object) -> None:
        code = frame.f_code
        if event == "call" and code.co_name not in COMPREHENSIONS and code.co_filename.startswith(found.folder):
            found.entered.append((code.co_filename.removeprefix(found.folder), code.co_qualname))

    before = sys.getprofile()
    sys.setprofile(look)
    try:
        call()
    finally:
        sys.setprofile(before)
    return found


@dataclass(frozen=True, slots=True)
class Crossing:
    """What one query crosses: on its way to the upstream, and its answer on the way back."""

    name: str
    out: Trail
    back: Trail

    def sizes(self) -> Iterator[Size]:
        """Count calls and modules for each way."""
        yield Size(OUT, self.name, len(self.out.entered))
        yield Size(BACK, self.name, len(self.back.entered))
        yield Size(MODULES_OUT, self.name, len(self.out.modules))
        yield Size(MODULES_BACK, self.name, len(self.back.modules))


@dataclass(frozen=True, slots=True)
class Exchange:
    """What a client sends in one write, and what the upstream answers in one."""

    sent: bytes
    answer: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Query:
    """A query that a client sends again and again, and what it has sent once before, if anything."""

    name: str
    first: Exchange | None
    exchange: Exchange


SIMPLE, PARSED, BOUND = "simple query", "Parse, Bind, Describe, Execute, Sync", "Bind, Describe, Execute, Sync"


def queries() -> list[Query]:
    """Return the queries that are followed: those of the three protocols, and one without Describe."""
    from proxy import protocol as p
    from tests.unit.session import town as t

    text = b"SELECT $1::pg_catalog.int4"
    describe, no_data = p.message(p.DESCRIBE, b"P\0"), p.message(p.NO_DATA)
    described = p.message(p.PARAMETER_DESCRIPTION, b"\0\1\0\0\0\x17"), no_data  # a named Parse goes with a Describe
    prepare = Exchange(p.parse(b"one", text) + t.SYNC, (t.PARSED, *described, t.READY_I))
    rows = t.ROWS, p.message(p.DATA_ROW, b"\0\0")
    answer = (t.BOUND, *rows, t.SELECTED, t.READY_I)
    parse = p.parse(b"", text) + t.bind() + describe + t.EXECUTE + t.SYNC
    return [
        Query(SIMPLE, None, Exchange(p.query(b"SELECT 1"), (*rows, t.SELECTED, t.READY_I))),
        Query(PARSED, None, Exchange(parse, (t.PARSED, *answer))),
        Query(BOUND, prepare, Exchange(t.bind(b"one") + describe + t.EXECUTE + t.SYNC, answer)),
        Query(
            "Bind, Execute, Sync",
            prepare,
            Exchange(t.bind(b"one") + t.EXECUTE + t.SYNC, (t.BOUND, *rows[1:], t.SELECTED, t.READY_I)),
        ),
    ]


def crossings() -> list[Crossing]:
    """Have a session that is logged in send queries that it has sent before, and follow each."""
    return [_cross(query) for query in queries()]


def _cross(query: Query) -> Crossing:
    from tests.unit.session.town import Town

    town = Town()
    guest, wire = town.client()
    exchange = query.exchange
    for each in (query.first, *[exchange] * 3):
        if each is not None:
            guest.client.client_data(each.sent)
            town.link(guest).says(*each.answer)
    wire.take()
    out = trail(lambda: wire.receive(exchange.sent))
    upstream = town.link(guest)
    back = trail(lambda: upstream.says(*exchange.answer))
    told = wire.take()
    if told != b"".join(exchange.answer) or guest.link is not None:
        raise RuntimeError(f"{query.name} was not answered: {told!r}")
    return Crossing(query.name, out, back)


# --- the command -----------------------------------------------------------------------------------------------------


@click.command()
@click.option("--trail", "shown", is_flag=True, help="Name every function that a query enters, in order.")
def main(shown: bool) -> None:
    """Print what is over its bound, and the calls for a query; exit with 1 if anything is over."""
    over = [size for size in sizes(Sources.read()) if size.over]
    for size in over:
        click.echo(f"{size.count:6} {size.what} (at most {BOUNDS[size.what]}): {size.where}")
    kinds = (OUT, BACK, MODULES_OUT, MODULES_BACK)
    click.echo(f"\n{'':36}" + "".join(f"{kind:>21}" for kind in kinds))
    click.echo(f"{'at most':36}" + "".join(f"{BOUNDS[kind]:21}" for kind in kinds))
    for crossing in crossings():
        found = list(crossing.sizes())
        over += [size for size in found if size.over]
        click.echo(f"{crossing.name:36}" + "".join(f"{size.count:21}" for size in found))
        if shown:
            for way, each in (("out", crossing.out), ("back", crossing.back)):
                click.echo("".join(f"    {way:4} {file}: {name}\n" for file, name in each.entered), nl=False)
    sys.exit(1 if over else 0)


if __name__ == "__main__":
    main()
