"""Read PostgreSQL's text of its own trees: what nodeToString() writes (outfuncs.c), of 13 to 18."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, Final, TypeAlias

Node: TypeAlias = dict[str, Any]
"""The fields of a node by name; its label, as the server prints it, is under "node"."""

_TOKEN: Final = re.compile(
    r"""
      :constvalue\s+\d+\s+\[([^\]]*)\]                  # 1: the bytes of a Datum
    | :(\w+)\s+((?:[^\s(){}\\]+|\\.)+)                  # 2, 3: a field with a plain value
    | :(\w+)\s+(?=[({])                                 # 4: a field whose value is a node or a list
    | ([(){}])                                          # 5
    | ((?:[^\s(){}\\]+|\\.)+)                           # 6: the label of a node, or the member of a list
    """,
    re.VERBOSE | re.DOTALL,
)
_ESCAPED: Final = re.compile(r"\\(.)", re.DOTALL)
_NUMBER: Final = re.compile(r"-?\d+\Z")
_OVERLONG: Final = re.compile(rb"^(.[^ \n]{77})\n", re.MULTILINE | re.DOTALL)
"""A line that format_node_dump() (print.c) had to break inside a word: LINELEN is 78."""
_COLUMN_NAMES: Final = re.compile(rb":colnames\s+\((?:[^\\)]++|\\.)*+\)", re.DOTALL)
_WORDS: Final[dict[str, Any]] = {"<>": None, "true": True, "false": False}


def read(text: bytes, *, column_names: bool = True) -> Any:
    """Return the tree of a text: nodes as dicts, lists as lists, numbers as int, `<>` as None, names as str.

    Takes time in proportion to its length, and no depth is too deep. Lists of OIDs, integers and members of a set
    lose their mark (o, i, x, b). Without `column_names`, which are most of a tree over wide tables, aliases have none.
    Raises ValueError for a text that is none.
    """
    if not column_names:
        text = _COLUMN_NAMES.sub(b":colnames <>", text)
    root: list[Any] = []
    stack: list[tuple[Node | list[Any], str]] = []
    inside: Node | list[Any] = root
    name = ""
    labelled = True
    for value_bytes, plain_name, plain, long_name, mark, word in _TOKEN.findall(_unbroken(text)):
        if plain:
            if type(inside) is list:
                raise ValueError("a field stands in a list")
            inside[plain_name] = _value(plain)  # type: ignore[call-overload]
        elif long_name:
            name = long_name
        elif mark == "{" or mark == "(":
            new: Node | list[Any] = {} if mark == "{" else []
            if type(inside) is list:
                inside.append(new)
            else:
                inside[name] = new  # type: ignore[call-overload]
            stack.append((inside, mark))
            inside = new
            labelled = mark == "("
        elif mark:
            if not stack:
                raise ValueError("a node or a list ends that has not begun")
            before, opened = stack.pop()
            if (opened == "{") is not (mark == "}"):
                raise ValueError("a node ends as a list, or a list as a node")
            inside = before
            labelled = True
        elif word:
            if type(inside) is list:
                if inside or word not in ("o", "i", "x", "b"):
                    inside.append(_member(word))
            elif not labelled:
                inside["node"] = word  # type: ignore[call-overload]
                labelled = True
        else:
            inside["constvalue"] = value_bytes  # type: ignore[call-overload]
    if stack or len(root) != 1:
        raise ValueError("the text is not one whole tree")
    return root[0]


def _unbroken(text: bytes) -> str:
    """Return a text without the line breaks that were put inside words; the others stand for spaces."""
    return _OVERLONG.sub(rb"\1", text).decode("utf-8", "replace")


@lru_cache(4096)
def _value(word: str) -> Any:
    if word in _WORDS:
        return _WORDS[word]
    if _NUMBER.match(word):
        return int(word)
    return _ESCAPED.sub(r"\1", word).replace("\n", " ") if "\\" in word else word


def _member(word: str) -> Any:
    """Return a member of a list: a String node is in quotes, and a number that is none has a backslash before it."""
    if word[0] == '"' and len(word) > 1:
        return _ESCAPED.sub(r"\1", word[1:-1]).replace("\n", " ")
    return _value(word)
