"""README.md: short, with a door for each reader. docs/configuration.md: its keys, defaults and variables are true."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from proxy.config.load import load
from proxy.config.schema import ENVIRONMENT_NAMES, SECTIONS, key_of
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


def test_readme_makes_venv_before_it_is_used() -> None:
    before, made, _ = README.partition("\nmake venv\n")
    assert made and ".venv/bin/" not in before


@pytest.mark.parametrize("page", DOCS, ids=lambda page: page.name)
def test_every_page_is_one_step_from_the_readme(page: Path) -> None:
    linked = {(ROOT / target.partition("#")[0]).resolve() for target in targets(README)}
    assert page in linked or page.parent == ROOT / "docs" / "rules"


# --- docs/configuration.md --------------------------------------------------------------------------------------------

PAGE = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
MINIMAL = {"DB_HOST": "db.example", "DB_READONLY_USERNAME": "reader"}
KEYS = {f"{section}.{item.name}": item for section, kind in SECTIONS.items() for item in dataclasses.fields(kind)}

CONFIGURATION = {
    key.strip("`"): (default, re.findall("`(.*?)`", variables))
    for part in re.findall(r"^## .*?(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    for key, default, _, variables, _ in rows(part, "| key | default | form | environment | meaning |")
}


def test_page_holds_every_key_in_the_order_of_the_configuration() -> None:
    assert list(CONFIGURATION) == [*KEYS, "max_client_conn"]  # the last one is of an entry of `databases`


@pytest.mark.parametrize("key", KEYS)
def test_default_and_variables_of_a_key_are_right(key: str) -> None:
    default, (variable, *short) = CONFIGURATION[key]
    section, name = key.split(".")
    item = KEYS[key]
    assert variable == f"SIDECART_{section}_{name}".upper()
    assert short == [variable for variable, place in ENVIRONMENT_NAMES.items() if place == (section, name)]
    if item.default is dataclasses.MISSING:
        assert default == "(required)"
        return
    # The word of the table, given as a variable of the table, makes the default of the code.
    word = {"(empty)": "", "`[]`": "[]" if key_of(item).form.read is None else ","}.get(default, default.strip("`"))
    assert word or item.default in ("", ())
    for each in (variable, *short):
        config = load(None, {**MINIMAL, each: word})
        assert getattr(getattr(config, section), name) == item.default
