"""What is known of an operand's type, beside operators of the database."""

from __future__ import annotations

import pytest

from proxy.sql import operators as operands
from proxy.sql import text
from proxy.sql.catalog import Chosen, Operator


def given(expression: str, operators: dict[str, tuple[Operator, ...]]) -> str:
    (statement,) = text.parse(f"SELECT {expression}")
    (target,) = statement["stmt"]["SelectStmt"]["targetList"]
    return operands.given(target["ResTarget"]["val"], operands.UNREAD._replace(operators=operators))


def operator(*types: tuple[str, ...], own: frozenset[int] = frozenset({99})) -> Operator:
    return Operator(1, "public", "int8", "int8", Chosen(own, frozenset(types)), own)


@pytest.mark.parametrize(
    ("expression", "name"),
    [
        ("9999999999 - 9999999999", "-"),
        ("'a' || 'b'::text", "||"),
        ("1 = 2", "="),
        ("coalesce(9999999999 - 9999999999, 1::bigint)", "-"),
        ("NULL::json ->> 'a'", "->>"),
        ("current_date + 1", "+"),
    ],
)
def test_operator_of_the_database_that_can_be_chosen_leaves_nothing_certain(expression: str, name: str) -> None:
    assert given(expression, {}) not in (operands.TYPED, operands.OPEN)
    chosen = [("int8", "int8"), ("unknown", "text"), ("int4", "int4"), ("json", "unknown"), ("date", "int4")]
    assert given(expression, {name: (operator(*chosen),)}) == operands.TYPED
    assert given(expression, {name: (operator(("unknown", "unknown")),)}) == given(expression, {})
    nobody_knows = Operator(1, "public", "int8", "int8", None, frozenset({99}))
    assert given(expression, {name: (nobody_knows,)}) == operands.TYPED


def test_value_of_a_type_of_the_database_stands_where_nothing_is_certain() -> None:
    chosen = operator(("unknown", "unknown")).chosen
    own = frozenset({99})
    assert operands.can_be_chosen(chosen, (operands.TYPED, "int4"), own)
    assert operands.can_be_chosen(chosen, ("int4", operands.OPEN), own)
    assert not operands.can_be_chosen(chosen, ("int4", "int4"), own)
    assert not operands.can_be_chosen(chosen, (operands.TYPED, "int4"), frozenset())
    assert operands.can_be_chosen(chosen, ("unknown", "unknown"), frozenset())
    assert operands.can_be_chosen(chosen, ("int4", "int4"), None)
