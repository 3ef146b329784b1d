"""Every text of an error that SideCart makes itself stands on the page that explains errors."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
VERBS = {"commands", "operating", "preflight", "demo"}
"""Packages whose errors whoever runs the command reads, and no client."""
SOURCES = sorted(path for path in (ROOT / "proxy").rglob("*.py") if path.parts[-2] not in VERBS)
HOLE = "…"

TEXT_AT = {
    "Refusal": 1,
    "Verdict": 4,
    "Excess": 2,
    "ScramError": 0,
    "LoginRefusedError": 1,
    "UpstreamError": 0,
    "UpstreamRefusedError": 0,
    "ClientProtocolError": 0,
    "MalformedMessageError": 0,
    "error_response": 2,
    "notice_response": 2,
    "end": 2,
    "_end": 2,
    "_lose": 3,
}
"""Which argument of these the client reads."""
NAMED = ("message", "text")


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def assigned(path: Path, name: str) -> list[ast.expr]:
    """Give what is assigned to a name anywhere in a module, or where it was imported from."""
    found: list[ast.expr] = []
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Assign) and any(
            isinstance(each, ast.Name) and each.id == name for each in node.targets
        ):
            found.append(node.value)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id == name:
            found += [node.value] if node.value is not None else []
        elif isinstance(node, ast.ImportFrom) and node.module and any(each.name == name for each in node.names):
            source = ROOT / f"{node.module.replace('.', '/')}.py"
            found += assigned(source, name) if source.exists() and source != path else []
    return found


def literal(path: Path, node: ast.expr, depth: int = 0) -> list[str]:
    """Give the texts that an expression can be, with a hole for what is not written there."""
    if depth > 4:
        return [HOLE]
    if isinstance(node, ast.Constant):
        return [node.value] if isinstance(node.value, str) else []
    if isinstance(node, ast.JoinedStr):
        return ["".join(part.value if isinstance(part, ast.Constant) else HOLE for part in node.values)]
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        pairs = [(literal(path, side, depth + 1) or [HOLE]) for side in (node.left, node.right)]
        return [left + right for left in pairs[0] for right in pairs[1]]
    if isinstance(node, ast.IfExp):
        return literal(path, node.body, depth + 1) + literal(path, node.orelse, depth + 1)
    if isinstance(node, ast.Name):
        return [text for value in assigned(path, node.id) for text in literal(path, value, depth + 1)]
    return []


def texts() -> Iterator[tuple[str, str]]:
    """Give every text, and where it is made."""
    for path in SOURCES:
        for node in ast.walk(tree(path)):
            if not isinstance(node, ast.Call):
                continue
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            given = [each.value for each in node.keywords if each.arg in NAMED and name in {*TEXT_AT, "_replace"}]
            at = TEXT_AT.get(name)
            if at is not None and at < len(node.args):
                given.append(node.args[at])
            for value in given:
                for text in literal(path, value):
                    if len(re.findall("[a-z]", text)) > 5:
                        yield text, f"{path.name}:{node.lineno}"


def pieces(text: str) -> list[str]:
    return [piece.strip() for piece in text.split(HOLE) if piece.strip()]


def stands_in(wanted: str, text: str) -> bool:
    """Tell whether all that is written of one text stands in another, in order."""
    parts = pieces(wanted)
    if sum(map(len, parts)) < 10:
        return False
    return re.search(".*".join(map(re.escape, parts)), text, re.DOTALL) is not None


def test_every_text_of_an_error_stands_in_troubleshooting() -> None:
    shown = [text for line in PAGE.splitlines() for text in re.findall(r"`([^`]+)`", line)]
    found = dict(texts())
    assert len(found) > 60
    missing = {
        text: place
        for text, place in found.items()
        if not any(stands_in(each, text) or stands_in(text, each) for each in shown)
    }
    assert missing == {}
