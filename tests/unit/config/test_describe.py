"""config.yaml and docs/configuration.md: written from the schema, and read as it is."""

from __future__ import annotations

import re
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any

import pytest

from proxy.config import values
from proxy.config.describe import config_file, page
from proxy.config.schema import SECTIONS, Again, Database, key_of
from proxy.config.values import Form
from tools.configuration import ROOT, WRITTEN

ANEW = (
    "proxy/config/schema.py says something else by now: .venv/bin/python -m tools.configuration writes both files anew"
)
KEYS = [(section, item) for section, kind in SECTIONS.items() for item in fields(kind)]
EVERY = [*(item for _, item in KEYS), *(item for item in fields(Database) if item.metadata)]


@pytest.mark.parametrize("path", WRITTEN, ids=lambda path: str(path.relative_to(ROOT)))
def test_file_is_what_the_schema_says(path: Path) -> None:
    assert path.read_bytes() == WRITTEN[path]().encode(), ANEW


def test_lines_of_the_file_can_be_read_beside_each_other() -> None:
    assert [line for line in config_file().splitlines() if len(line) > 120] == []


def test_key_is_told_what_it_is_beside_it() -> None:
    lines = iter(config_file().splitlines())
    for _, item in KEYS:
        line = next(line for line in lines if line.startswith(f"  {item.name}:"))
        comment = line.partition("# ")[2]
        key = key_of(item)
        assert key.meaning.replace("`", "") in comment
        assert [word for word in key.form.words if word not in line] == []


@pytest.mark.parametrize("item", EVERY, ids=lambda item: str(item.name))
def test_what_is_said_of_a_key_fits_into_a_table(item: Field[Any]) -> None:
    key = key_of(item)
    for text in (key.meaning, key.more, key.form.kind):
        assert "|" not in text and "\n" not in text
        assert text.count("`") % 2 == 0
    assert not key.meaning.endswith(".")
    assert key.more == "" or key.more.endswith(".")


@pytest.mark.parametrize("item", EVERY, ids=lambda item: str(item.name))
def test_default_that_is_written_is_read_as_the_default(item: Field[Any]) -> None:
    form = key_of(item).form
    if form.read is not None and item.default is not MISSING and item.default not in ("", ()):
        assert form.read(form.write(item.default)) == item.default


@pytest.mark.parametrize(
    ("form", "value", "text"),
    [
        (values.duration(zero=True), 0.0, "0"),
        (values.duration(zero=True), 0.25, "250ms"),
        (values.duration(zero=True), 90.0, "90s"),
        (values.duration(zero=True), 3300.0, "55min"),
        (values.duration(zero=True), 7200.0, "2h"),
        (values.size(0, 1 << 40), 0, "0"),
        (values.size(0, 1 << 40), 1500, "1500"),
        (values.size(0, 1 << 40), 1536 << 10, "1536kB"),
        (values.size(0, 1 << 40), 2 << 30, "2GB"),
        (values.RATE, 0.5, "0.5"),
        (values.MODE, 0o70, "070"),
        (values.BOOLEAN, False, "false"),
        (values.FUNCTIONS, ("a", "b.c*"), "a, b.c*"),
    ],
)
def test_value_is_written_in_the_largest_unit_and_read_again(form: Form, value: object, text: str) -> None:
    assert form.write(value) == text
    assert form.read is not None and form.read(text) == value


def test_page_says_which_keys_name_what_is_read_again() -> None:
    rows = dict(re.findall(r"^\| `(.*?)` \|(.*)\|$", page(), re.MULTILINE))
    for section, item in KEYS:
        said = [again for again in Again if again.value and f"*{again.value}*" in rows[f"{section}.{item.name}"]]
        assert said == ([key_of(item).again] if key_of(item).again is not Again.NEVER else [])
