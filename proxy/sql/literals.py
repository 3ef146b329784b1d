"""Read what is written out of a parse tree: names, constants of calls and of SET, trees without their locations.

Everything that is not a plain constant is None: what the text does not say is not guessed.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

NAMEDATALEN: Final = 64
"""Of a longer name PostgreSQL looks at one byte less (src/include/pg_config_manual.h)."""
"""Names are cut off before so many bytes, in the server's own encoding (pg_config_manual.h)."""

Body = dict[str, Any]
_encode = msgspec.json.Encoder(order="sorted").encode


def qualified(names: list[Body]) -> tuple[str, str]:
    """Give a name's schema, empty where none is written, and the name itself.

    One of three parts starts with the database's name, which the server accepts only if it is the current one.
    """
    return names[-2]["String"]["sval"] if len(names) > 1 else "", names[-1]["String"]["sval"]


def arguments(node: Body) -> list[Body] | None:
    """Give a call's arguments by position; None when some are named or VARIADIC, so that positions say nothing."""
    arguments: list[Body] = node.get("args", [])
    if node.get("func_variadic") or any("NamedArgExpr" in argument for argument in arguments):
        return None
    return arguments


def string(arguments: list[Body] | None, at: int, *casts: str) -> str | None:
    """Give the argument's value when it is a string constant, bare or cast to text or one of the built-in `casts`."""
    if arguments is None or at >= len(arguments):
        return None
    argument = arguments[at]
    cast = argument.get("TypeCast")
    names = [] if cast is None else [name["String"]["sval"] for name in cast["typeName"]["names"]]
    if cast is not None and (names in _TEXT_TYPES or (names[-1] in casts and names[:-1] in ([], ["pg_catalog"]))):
        if cast["typeName"].keys() & {"typmods", "arrayBounds"}:
            return None
        argument = cast["arg"]
    constant = argument.get("A_Const", {}).get("sval")
    return None if constant is None else constant.get("sval", "")


_TEXT_TYPES = (["text"], ["pg_catalog", "text"], ["pg_catalog", "varchar"])


def parameter(argument: Body) -> int | None:
    """Give the number of a bare parameter, from 1 on; None where the argument is none."""
    body = argument.get("ParamRef")
    return None if body is None else body.get("number")


def is_null(argument: Body) -> bool:
    """Tell whether an argument is NULL, without a type."""
    return "isnull" in argument.get("A_Const", {})


def is_true(argument: Body) -> bool:
    """Tell whether an argument is the word TRUE."""
    return argument.get("A_Const", {}).get("boolval", {}).get("boolval", False) is True


def integer(arguments: list[Body] | None, at: int) -> int | None:
    """Give the argument's value when it is an integer constant."""
    if arguments is None or at >= len(arguments):
        return None
    constant = arguments[at].get("A_Const", {}).get("ival")
    return None if constant is None else constant.get("ival", 0)


def setting_word(argument: Body) -> str | None:
    """Give one word of SET's list as flatten_set_variable_args does (utils/misc/guc_funcs.c); None: an expression."""
    constant = argument.get("A_Const", {})
    if "sval" in constant:
        return str(constant["sval"].get("sval", ""))
    if "ival" in constant:
        return str(constant["ival"].get("ival", 0))
    if "fval" in constant:
        return str(constant["fval"].get("fval", ""))
    return None


def argument_location(body: Body) -> int:
    """Give the location of the first word of SET's list, -1 when it has none."""
    (argument, *_) = body["args"][0].values()
    location = argument.get("location", -1)
    return location if isinstance(location, int) else -1


def bare(tree: Any) -> str:
    """Give a tree without its locations, for comparing: one text per structure."""
    return _encode(_without_locations(tree)).decode()


def _without_locations(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _without_locations(value) for key, value in tree.items() if key != "location"}
    return [_without_locations(item) for item in tree] if isinstance(tree, list) else tree
