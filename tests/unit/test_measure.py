"""The bounds of tools/measure.py hold; and what it counts is right."""

from __future__ import annotations

import textwrap

import pytest

from tools.measure import (
    ATTRIBUTES,
    BACK,
    BOUNDS,
    CIRCLE,
    FUNCTION_BRANCHES,
    FUNCTION_LINES,
    METHODS,
    MODULE_LINES,
    MODULES_BACK,
    MODULES_OUT,
    OUT,
    ROOT,
    TOP_MODULES,
    Size,
    Sources,
    crossings,
    sizes,
    trail,
)


@pytest.fixture(scope="module")
def found() -> list[Size]:
    return [*sizes(Sources.read()), *(size for crossing in crossings() for size in crossing.sizes())]


@pytest.mark.parametrize("what", BOUNDS)
def test_nothing_is_over_its_bound(what: str, found: list[Size]) -> None:
    assert {size.where: size.count for size in found if size.what == what and size.over} == {}


# --- counting --------------------------------------------------------------------------------------------------------


def counted(what: str, packages: tuple[str, ...] = (), /, **texts: str) -> dict[str, int]:
    """Count in sources that are given by the names of their modules, `__` for a dot."""
    named = {name.replace("__", "."): textwrap.dedent(text) for name, text in texts.items()}
    return {size.where: size.count for size in sizes(Sources(named, packages)) if size.what == what}


def branches(*lines: str) -> int:
    [count] = counted(FUNCTION_BRANCHES, m="\n    ".join(("def f():", *lines))).values()
    return count


@pytest.mark.parametrize(
    ("lines", "count"),
    [
        (("pass",), 0),
        (("if a: pass", "elif b: pass", "else: pass"), 2),
        (("for x in y: pass", "else: pass"), 1),
        (("while x: pass",), 1),
        (("try: pass", "except A: pass", "except B: pass", "finally: pass"), 2),
        (("return a and b and c",), 2),
        (("return a and b or c",), 2),
        (("return a if b else c",), 1),
        (("match a:", "  case 1: pass", "  case _ if b: pass"), 2),
        (("return [x for x in y if x if z]",), 2),
        (("return [x for x in y for z in x]",), 0),
        (("with a: pass", "assert b"), 0),
        (("def g():", "  if a: pass", "return lambda: a or b"), 2),
    ],
)
def test_branches_of_a_function(lines: tuple[str, ...], count: int) -> None:
    assert branches(*lines) == count


def test_lines_of_a_function_are_without_its_decorators_and_with_what_is_in_it() -> None:
    source = '''
        @one
        @two
        def f():
            """Docstring."""

            def g():
                pass

            # A comment.
            return g

        class C:
            if x:
                async def m(self): ...
    '''
    assert counted(FUNCTION_LINES, a__b=source) == {"a.b.f": 8, "a.b.C.m": 1}


def test_lines_of_modules_and_modules_of_the_project() -> None:
    texts = {"a": "x = 1\n\n# comment\n", "b": "", "b__c": "y = 2"}
    assert counted(MODULE_LINES, ("b",), **texts) == {"a": 3, "b": 0, "b.c": 1}
    assert counted(TOP_MODULES, ("b",), **texts) == {"proxy": 1}
    assert Sources.read().trees.keys() >= {"", "cli", "sql", "sql.walk"}
    [top] = [size for size in sizes(Sources.read()) if size.what == TOP_MODULES]
    assert top.count == len(list(ROOT.glob("*.py")))


def test_methods_are_counted_once_each_and_inherited_ones_count() -> None:
    base = """
        class Base:
            def a(self): ...
            @property
            def b(self): ...
            @b.setter
            def b(self, value): ...
    """
    above = """
        from proxy.base import Base
        from . import base
        class Above(Base):
            def a(self): ...
            if x:
                def c(self): ...
        class Other(base.Base, Unknown):
            def d(self):
                def e(self): ...
    """
    top = """
        from .above import Above as A, Other
        class Top(A, Other[int]):
            class Inner:
                def f(self): ...
    """
    assert counted(METHODS, base=base, above=above, top=top) == {
        "base.Base": 2,
        "above.Above": 3,
        "above.Other": 3,
        "top.Top": 4,
        "top.Top.Inner": 1,
    }


def test_attributes_are_slots_annotations_and_what_methods_assign() -> None:
    source = """
        class Base:
            __slots__ = ("one", "two")
            constant = 1
        class C(Base):
            three: int
            @property
            def nine(self): ...
            def __init__(this, other):
                this.two = this.four = 1
                this.five: int = 2
                this.six += 1
                for this.seven, (this.eight, local) in x:
                    this.nine = 1
                this.one.elsewhere = other.elsewhere = 1
                def later(): this.ten = 1
    """
    assert counted(ATTRIBUTES, m=source) == {"m.Base": 2, "m.C": 9}


def test_packages_in_a_circle() -> None:
    texts = {
        "a__x": "from proxy.b import y",
        "b__y": "def f():\n    from ..c import z",
        "c__z": "from proxy.a.x import thing\nimport proxy.d",
        "d": "from proxy.c.z import other",
        "e": "from proxy.a import x\nimport sys",
        "a": "",
        "b": "",
        "c": "",
    }
    found = counted(CIRCLE, ("a", "b", "c"), **texts)
    assert sorted(found.values()) == [2, 3]
    assert {frozenset(circle.split(" -> ")) for circle in found} == {frozenset("abc"), frozenset("cd")}
    del texts["c__z"]
    assert counted(CIRCLE, ("a", "b", "c"), **texts) == {}


def test_calls_are_those_into_the_project_comprehensions_apart() -> None:
    def called() -> list[Size]:
        return [size for size in sizes(Sources({"m": ""})) if [each for each in [size] if each]]

    tools = ROOT.parent / "tools"
    found = trail(called, tools)
    names = [name for _file, name in found.entered]
    assert names[0] == "Sources.__init__"
    assert "sizes" in names and "called" not in "".join(names)
    assert not any("comp>" in name for name in names)
    assert found.modules == {"measure.py"}
    assert trail(called).entered == []


def test_every_query_of_the_table_crosses_something() -> None:
    for crossing in crossings():
        counts = {size.what: size.count for size in crossing.sizes()}
        assert all(counts[what] > 0 for what in (OUT, BACK, MODULES_OUT, MODULES_BACK)), crossing.name
