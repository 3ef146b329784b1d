"""README.md: short, with a door for each reader. docs/configuration.md: its keys, defaults and variables are true."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from proxy.config.load import load
from proxy.config.schema import ENVIRONMENT_NAMES, SECTIONS
from tests.unit.docs.pages import DOCS, README, ROOT, rows, targets

MOST_BYTES = 12_000
FIRST_SCREEN = 2_400
"""Characters above the fold, the table of doors included."""


def test_readme_is_short() -> None:
    assert len(README.encode()) <= MOST_BYTES


@pytest.mark.parametrize(
    "door",
    [
        *("docs/connecting.md", "docs/rules/README.md", "docs/check.md"),
        *("docs/operations.md", "docs/troubleshooting.md", "docs/configuration.md"),
        *(
            "#use-it",
            "docs/image.md",
            "terraform/README.md",
            "docs/passwords.md",
            "docs/access.md",
            "docs/preflight.md",
        ),
        *("docs/architecture/README.md", "CONTRIBUTING.md"),
    ],
)
def test_each_reader_finds_the_door_in_the_first_screen(door: str) -> None:
    first = README.partition("\n## ")[0]
    assert len(first) <= FIRST_SCREEN
    assert f"]({door})" in first


@pytest.mark.parametrize("page", DOCS, ids=lambda page: page.name)
def test_every_page_is_one_step_from_the_readme(page: Path) -> None:
    linked = {(ROOT / target.partition("#")[0]).resolve() for target in targets(README)}
    assert page in linked or page.parent == ROOT / "docs" / "rules"


# --- docs/configuration.md --------------------------------------------------------------------------------------------

PAGE = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
MINIMAL = {"DB_HOST": "db.example", "DB_READONLY_USERNAME": "reader"}
KEYS = {f"{section}.{item.name}": item for section, kind in SECTIONS.items() for item in dataclasses.fields(kind)}

CONFIGURATION = {
    key.strip("`"): (default, variable.strip("`"))
    for key, default, variable, _ in rows(PAGE, "| key | default | environment | meaning |")
}


def test_table_holds_every_key_in_the_order_of_the_configuration() -> None:
    assert list(CONFIGURATION) == list(KEYS)


@pytest.mark.parametrize("key", KEYS)
def test_default_and_variable_of_a_key_are_right(key: str) -> None:
    default, variable = CONFIGURATION[key]
    section, name = key.split(".")
    item = KEYS[key]
    assert variable == f"SIDECART_{section}_{name}".upper()
    if item.default is dataclasses.MISSING:
        assert default == "(required)"
        return
    # The word of the table, given as the variable of the table, makes the default of the code.
    word = {"(empty)": "", "`[]`": "[]" if item.metadata["read"] is None else ","}.get(default, default.strip("`"))
    assert word or item.default in ("", ())
    config = load(None, {**MINIMAL, variable: word})
    assert getattr(getattr(config, section), name) == item.default


def test_short_names_are_right() -> None:
    table = {variable.strip("`"): key.strip("`") for variable, key in rows(PAGE, "| variable | key |")}
    assert table == {variable: ".".join(place) for variable, place in ENVIRONMENT_NAMES.items()}
