"""The reader of PostgreSQL's trees, the list of what they name, and the comparison, without a server."""

from __future__ import annotations

import pytest

from tests.oracle import nodes, picked
from tests.oracle.compare import Comparison, Index, Problem, by_cause
from tests.oracle.faults import Resolution, Use
from tests.oracle.server import Analysed

TREE = (
    b"{QUERY :commandType 1 :utilityStmt <> :setOperations <> :groupClause <> :distinctClause <> :windowClause <>"
    b" :sortClause ({SORTGROUPCLAUSE :tleSortGroupRef 1 :eqop 98 :sortop\n664 :nulls_first false}) :targetList"
    b" ({TARGETENTRY :expr {FUNCEXPR :funcid 870 :funcresulttype 25 :args ({VAR :vartype 25 :location 13}) :location 7}"
    b" :resno 1 :resname lower :ressortgroupref 1 :resjunk false})}"
)


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        (b"{A :b 1 :c -2 :d <> :e true}", {"node": "A", "b": 1, "c": -2, "d": None, "e": True}),
        (b"({A}\n{B})", [{"node": "A"}, {"node": "B"}]),
        (b"(o 1 2)", [1, 2]),
        (b"(b)", []),
        (b'{A :names ("a" "b\\ c" "\\(\\}" "") :x y}', {"node": "A", "names": ["a", "b c", "(}", ""], "x": "y"}),
        (b"{A :name :b :c 1}", {"node": "A", "name": ":b", "c": 1}),
        (b"{A :name \\<> :other \\1}", {"node": "A", "name": "<>", "other": "1"}),
        (b"{A :name a\\\nb}", {"node": "A", "name": "a b"}),
        (b"{A :constvalue 4 [ 1 0 0 -1 ] :b 2}", {"node": "A", "constvalue": " 1 0 0 -1 ", "b": 2}),
        (b"{A :constvalue <>}", {"node": "A", "constvalue": None}),
        (b"{A_EXPR AND :lexpr <>}", {"node": "A_EXPR", "lexpr": None}),
    ],
)
def test_trees(text: bytes, tree: object) -> None:
    assert nodes.read(text) == tree


def test_a_line_break_inside_a_long_word_is_none() -> None:
    word = b"x" * 100
    broken = b"{A :name\n" + word[:78] + b"\n" + word[78:] + b"}"
    assert nodes.read(broken) == {"node": "A", "name": word.decode()}


def test_a_tree_may_be_as_deep_as_it_likes() -> None:
    depth = 100_000
    tree = nodes.read(b"{A :b " * depth + b"1" + b"}" * depth)
    for _ in range(depth):
        tree = tree["b"]
    assert tree == 1


@pytest.mark.parametrize("text", [b"", b"{A", b"{A} {B}", b"{A)}", b"}", b"(:a 1)", b"(a}"])
def test_what_is_no_tree(text: bytes) -> None:
    with pytest.raises(ValueError):
        nodes.read(text)


def test_what_a_tree_names() -> None:
    tree = nodes.read(TREE)
    assert sorted(picked.picked(tree)) == [
        ("conversion", 7, picked.pair(25, 25)),
        ("function", 7, 870),
        ("group", 7, 98),
        ("sort", 7, 664),
        ("var", 13, 25),
    ]
    assert picked.output(tree) == [("lower", 25)]


def test_a_node_that_nobody_knows_is_not_passed_over() -> None:
    with pytest.raises(picked.UnknownNodeError):
        picked.picked([{"node": "NEWEXPR", "funcid": 1}])


@pytest.mark.parametrize(
    ("uses", "problem"),
    [
        ([Use("function", 7, frozenset((870,)))], None),
        ([Use("function", 7, None)], Problem.WIDE),
        ([Use("function", 7, frozenset((870, 1)))], Problem.WIDE),
        ([Use("function", -1, frozenset((870,)))], None),
        ([Use("function", 7, frozenset((1,)))], Problem.CHOICE),
        ([Use("function", 7, frozenset((1,))), Use("function", 9, frozenset((870,)))], Problem.CHOICE),
        ([Use("function", 8, frozenset((870,)))], Problem.PLACE),
        ([Use("operator", 7, frozenset((870,)))], Problem.ABSENT),
        ([], Problem.ABSENT),
    ],
)
def test_an_object_is_looked_for_at_its_place(uses: list[Use], problem: Problem | None) -> None:
    others = [Use("group", 7, frozenset((98,))), Use("sort", 7, frozenset((664,))), Use("var", 13, frozenset((25,)))]
    comparison = Comparison(lambda kind, oid: str(oid))
    comparison.add(b"SELECT lower(t)", Analysed(text=TREE), Resolution([*uses, *others], [("lower", 25)], []))
    assert [miss.problem for miss in comparison.misses] == ([] if problem is None else [problem])
    assert [cause.problem for cause in by_cause(comparison.misses)] == ([] if problem is None else [problem])


def test_without_a_place_an_object_is_looked_for_everywhere() -> None:
    index = Index([Use("function", 7, frozenset((870,)))])
    assert index.has(picked.Picked("function", -1, 870))
    assert not index.has(picked.Picked("function", -1, 871))
