"""The pages for readers, and what is read out of them."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[3]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCS = sorted((ROOT / "docs").rglob("*.md"))
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *DOCS]


def page_id(page: Path) -> str:
    """Say which page it is, as the id of a test."""
    return str(page.relative_to(ROOT))


def rows(text: str, heading: str) -> list[list[str]]:
    """Return the cells of the table whose first row is `heading`."""
    _, found, rest = text.partition(heading + "\n")
    assert found, f"no table is headed {heading}"
    table = []
    for line in rest.splitlines()[1:]:
        if not line.startswith("|"):
            break
        table.append([cell.strip() for cell in line.strip().strip("|").split(" | ")])
    return table


def targets(text: str) -> list[str]:
    """Return where the links of a page lead, but for those to other sites."""
    return [target for target in re.findall(r"\]\(([^)]+)\)", text) if not target.startswith("https://")]
