"""README.md and docs/: what they say about keys, defaults, commands, SQLSTATEs and files is true."""

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
from proxy.config.load import load
from proxy.config.schema import ENVIRONMENT_NAMES, SECTIONS
from proxy.session.answering import OBSERVED
from proxy.session.ledger import STAY_BEHIND
from proxy.sql.verdict import Effect

ROOT = Path(__file__).parents[3]
README = (ROOT / "README.md").read_text(encoding="utf-8")
TROUBLES = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

MINIMAL = {"DB_HOST": "db.example", "DB_READONLY_USERNAME": "reader"}
KEYS = {f"{section}.{item.name}": item for section, kind in SECTIONS.items() for item in dataclasses.fields(kind)}
SHELL = [
    line.partition("  #")[0].strip()
    for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
    if line.strip() and not line.startswith("#")
]


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


CONFIGURATION = {
    key.strip("`"): (default, variable.strip("`"))
    for key, default, variable, _ in rows(README, "| key | default | environment | meaning |")
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
    table = {variable.strip("`"): key.strip("`") for variable, key in rows(README, "| variable | key |")}
    assert table == {variable: ".".join(place) for variable, place in ENVIRONMENT_NAMES.items()}


# --- commands ---------------------------------------------------------------------------------------------------------


def test_there_are_commands_to_check() -> None:
    assert {"make demo", "make check", "make test", "make bench", "make venv"} <= set(SHELL)
    assert any(line.endswith("sidecart serve") for line in SHELL)


@pytest.mark.parametrize("command", SHELL)
def test_command_exists(command: str) -> None:
    words = [word for word in shlex.split(command) if not re.match(r"[A-Z_]+=", word)]
    if words[0] == "export":
        assert words == ["export"]
    elif words[0] == "make":
        targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert words[1] in targets
    elif words[0] == "psql":
        for option, value in itertools.pairwise(words):
            assert option != "-f" or (ROOT / value).is_file(), value
        for value in re.findall(r"sslrootcert=(\S+)", words[1]):
            assert (ROOT / value).is_file(), value
    elif words[0] in ("docker", "jq"):
        pass  # tests/deploy/test_docs.py, tests/integration/test_observe.py
    else:
        assert words[0] == ".venv/bin/sidecart", f"nothing here checks {words[0]}"
        assert words[1] in VERBS


@pytest.mark.parametrize("found", sorted(set(re.findall(r"`(sidecart [^`]+|make [^`]+)`", README))))
def test_command_in_the_text_exists(found: str) -> None:
    program, verb, *options = found.split()
    if program == "make":
        assert re.search(rf"^{verb}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
        return
    assert verb in VERBS
    command = importlib.import_module(f"proxy.commands.{verb.replace('-', '_')}").command
    known = {name for parameter in command.params if isinstance(parameter, click.Option) for name in parameter.opts}
    assert {option for option in options if option.startswith("-")} <= known


# --- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.is_file(), target
        headings = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE) if anchor else []
        slugs = [re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings]
        assert not anchor or anchor in slugs, target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_keys_in_the_text_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for section, name in re.findall(rf"`({'|'.join(SECTIONS)})\.([a-z_]+)`", text):
        assert f"{section}.{name}" in KEYS or name == "py", f"{section}.{name}"
    for variable in re.findall(r"\b(?:SIDECART|DB)_[A-Z_]+\b", text):
        known = {*ENVIRONMENT_NAMES, *(f"SIDECART_{key.replace('.', '_')}".upper() for key in KEYS)}
        known |= {"SIDECART_CONFIG", "SIDECART_DATABASES", "SIDECART_TEST_ROOTFS"}
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
    reasons = {row[0].strip("`") for row in rows(README, "| pin | cause | what to do |")}
    possible = {"prepared_statement", OBSERVED, *(each.value for each in Effect)}
    assert reasons <= possible
    assert {"setting", "prepared_statement", "hold_cursor", "session_state"} <= reasons


# --- docs/architecture.md ---------------------------------------------------------------------------------------------

ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def test_every_setting_that_pins_is_named() -> None:
    told = next(row for row in README.splitlines() if row.startswith("| `setting` |"))
    assert sorted(re.findall("`([a-z_]+)`", told)[1:]) == sorted(STAY_BEHIND)


def test_every_module_has_its_job_in_the_architecture() -> None:
    told = rows(ARCHITECTURE, "| package | module | its one job |")
    named = {(row[0].strip("`"), name) for row in told for name in re.findall(r"`(\w+)`", row[1])}
    paths = [path.relative_to(ROOT / "proxy") for path in (ROOT / "proxy").rglob("*.py")]
    verbs = {"commands", "operating", "preflight", "demo"}  # their files say it themselves
    modules = {
        ("/".join(path.parts[:-1]), path.stem)
        for path in paths
        if path.stem not in ("__init__", "__main__") and path.parts[0] not in verbs and path.parts[1:2] != ("resolve",)
    }
    assert named == modules


def test_tests_that_hold_invariants_exist() -> None:
    files = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py")}
    found = re.findall(r"`(test_\w+\.py)(?:::(test_\w+))?`", ARCHITECTURE)
    assert len(found) > 20
    for name, function in found:
        assert name in files, name
        assert not function or f"def {function}(" in files[name], function


def test_functions_in_the_architecture_exist() -> None:
    source = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "proxy").rglob("*.py"))
    modules = {path.stem for path in (ROOT / "proxy").rglob("*.py")}
    for dotted in re.findall(r"`([A-Za-z_]\w*(?:\.\w+)+)(?:\([^`]*\))?`", ARCHITECTURE):
        first, *rest = dotted.split(".")
        if dotted.endswith((".py", ".sql")) or first in ("README", "p", "x", "public", "pg_catalog"):
            continue
        assert first in modules or re.search(rf"^class {first}\b", source, re.MULTILINE), dotted
        for name in rest:
            assert re.search(
                rf"\b(?:def|class) {name}\b|^{name}\b|\bself\.{name}\b|^    {name}:", source, re.MULTILINE
            ), dotted
