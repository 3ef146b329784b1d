"""README.md, CONTRIBUTING.md and docs/: what they say about keys, commands, SQLSTATEs, links and files is true."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import itertools
import re
import shlex
from pathlib import Path

import click
import pytest

from proxy import errors
from proxy.cli import VERBS
from proxy.config.schema import ENVIRONMENT_NAMES, SECTIONS
from proxy.session.ledger import STAY_BEHIND
from proxy.session.transactions import OBSERVED
from proxy.sql.verdict import Effect
from tests.unit.docs.pages import PAGES, ROOT, page_id, rows, targets

TROUBLES = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
CONNECTING = (ROOT / "docs" / "connecting.md").read_text(encoding="utf-8")

KEYS = {f"{section}.{item.name}" for section, kind in SECTIONS.items() for item in dataclasses.fields(kind)}
TEXTS = {page: page.read_text(encoding="utf-8") for page in PAGES}
SHELL = sorted(
    {
        line.partition("  #")[0].strip()
        for page, text in TEXTS.items()
        if page.name != "image.md"  # tests/deploy/test_docs.py
        for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
        for line in block.splitlines()
        if line.strip() and not line.startswith("#")
    }
)
INLINE = sorted({found for text in TEXTS.values() for found in re.findall(r"`(sidecart [^`]+|make [^`]+)`", text)})


# --- commands ---------------------------------------------------------------------------------------------------------


def test_there_are_commands_to_check() -> None:
    assert {"make demo", "make venv"} <= set(SHELL)
    assert {"make check", "make test", "make bench"} <= set(INLINE)
    assert any(line.endswith("sidecart serve") for line in SHELL)


def look_at_options(verb: str, words: list[str]) -> None:
    assert verb in VERBS
    command = importlib.import_module(f"proxy.commands.{verb.replace('-', '_')}").command
    known = {option for parameter in command.params if isinstance(parameter, click.Option) for option in parameter.opts}
    assert {word for word in words if re.match("--?[a-z]", word)} <= known


@pytest.mark.parametrize("command", SHELL)
def test_command_exists(command: str) -> None:
    words = [word for word in shlex.split(command) if not re.match(r"[A-Z_]+=", word)]
    if words[0] == "export":
        assert words == ["export"]
    elif words[0] == "make":
        targets_of_make = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert words[1] in targets_of_make
    elif words[0] == "psql":
        for option, value in itertools.pairwise(words):
            assert option != "-f" or (ROOT / value).is_file(), value
        for value in re.findall(r"sslrootcert=(\S+)", words[1]):
            assert (ROOT / value).is_file(), value
    elif words[0] in ("docker", "jq"):
        pass  # tests/deploy/test_docs.py, tests/integration/test_observe.py
    else:
        assert words[0] == ".venv/bin/sidecart", f"nothing here checks {words[0]}"
        look_at_options(words[1], words[2:])


@pytest.mark.parametrize("found", INLINE)
def test_command_in_the_text_exists(found: str) -> None:
    program, verb, *options = found.split()
    if program == "make":
        assert re.search(rf"^{verb}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
    else:
        look_at_options(verb, options)


# --- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md"], ids=page_id)
def test_links_lead_somewhere(page: Path) -> None:
    for target in targets(page.read_text(encoding="utf-8")):
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.is_file(), target
        headings = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE) if anchor else []
        slugs = [re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings]
        assert not anchor or anchor in slugs, target


NAMING_PAGES = sorted(
    path
    for pattern in ("*", "proxy/**/*", "tests/**/*", "deploy/**/*", "sql/*", "tools/*", "terraform/**/*.tf")
    for path in ROOT.glob(pattern)
    if path.suffix in (".py", ".md", ".sql", ".tsv", ".yaml", ".yml", ".tf", ".toml", ".example", "")
    and path.is_file()
    and not any(part.startswith(".") and part != ".env.example" for part in path.relative_to(ROOT).parts)
)


def test_pages_that_are_named_anywhere_exist() -> None:
    """A HINT, a comment or a screen that sends its reader to a page that has gone."""
    found = 0
    for path in NAMING_PAGES:
        for page in re.findall(r"\bdocs/[\w/-]+\.md\b", path.read_text(encoding="utf-8", errors="replace")):
            found += 1
            assert (ROOT / page).is_file(), f"{page} in {page_id(path)}"
    assert found > 30


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_keys_in_the_text_exist(page: Path) -> None:
    text = TEXTS[page]
    for section, key in re.findall(rf"`({'|'.join(SECTIONS)})\.([a-z_]+)`", text):
        assert f"{section}.{key}" in KEYS or key == "py", f"{section}.{key}"
    for variable in re.findall(r"\b(?:SIDECART|DB)_[A-Z_]+\b", text):
        known = {*ENVIRONMENT_NAMES, *(f"SIDECART_{key.replace('.', '_')}".upper() for key in KEYS)}
        known |= {"SIDECART_CONFIG", "SIDECART_DATABASES", "SIDECART_TEST_ROOTFS", "SIDECART_TEST_POSTGRES"}
        known |= {"DB_ADMIN_USERNAME", "DB_ADMIN_PASSWORD"}
        assert variable in known, variable


def messages(path: Path) -> list[str]:
    """Return the string constants of a module, docstrings included."""
    return [
        node.value
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]


@pytest.mark.parametrize("path", sorted((ROOT / "proxy").rglob("*.py")), ids=lambda path: "/".join(path.parts[-2:]))
def test_keys_that_a_message_names_exist(path: Path) -> None:
    """An error that advises `filter.allow_listen: true` sends its reader to a key that stops the start."""
    for text in messages(path):
        for section, name in re.findall(rf"\b({'|'.join(SECTIONS)})\.([a-z]+_[a-z_]+)", text):
            assert f"{section}.{name}" in KEYS, f"{section}.{name} in {text!r}"


def test_every_sqlstate_that_is_sent_is_explained() -> None:
    explained = {code for row in rows_of_all(TROUBLES) for code in re.findall(r"\b[0-9A-Z]{5}\b", row)}
    used = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "proxy").rglob("*.py") if path.stem != "errors")
    for name, code in vars(errors).items():
        if name.isupper() and isinstance(code, str) and re.search(rf"\b{name}\b", used):
            assert code in explained, name


def rows_of_all(text: str) -> list[str]:
    return [line.split(" | ")[0] for line in text.splitlines() if line.startswith("| ")]


def test_every_pin_reason_is_explained() -> None:
    reasons = {row[0].strip("`") for row in rows(CONNECTING, "| pin | cause | what to do |")}
    possible = {"prepared_statement", OBSERVED, *(each.value for each in Effect)}
    assert reasons <= possible
    assert {"setting", "prepared_statement", "hold_cursor", "session_state"} <= reasons


def test_every_setting_that_pins_is_named() -> None:
    told = next(row for row in CONNECTING.splitlines() if row.startswith("| `setting` |"))
    assert sorted(re.findall("`([a-z_]+)`", told)[1:]) == sorted(STAY_BEHIND)
