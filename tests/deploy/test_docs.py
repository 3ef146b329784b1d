"""Commands of docs/image.md, and those for containers of the other pages: each is run, or looked at word by word."""

from __future__ import annotations

import importlib
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest
import yaml

from proxy.cli import VERBS
from proxy.config.load import load

ROOT = Path(__file__).parents[2]
IMAGE = (ROOT / "docs" / "image.md").read_text()
OTHERS = [page.read_text() for page in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md")) if page.name != "image.md"]
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())
MINIMAL = {"DB_HOST": "db.example", "DB_READONLY_USERNAME": "reader"}

WITHOUT_DAEMON = ("apt-get", "debootstrap", "cp", "chroot", "export", "buildah", "base=$(buildah")
"""Programs that make an image: they need root and minutes. docs/image.md has what they printed."""

DOCKER_OPTIONS = {
    "build": {"--tag", "--build-arg"},
    "run": {
        *("--env-file", "-p", "--publish", "--detach", "--name", "--restart", "--read-only", "--cap-drop"),
        *("--security-opt", "--memory", "--pids-limit", "--stop-timeout", "--env", "--volume", "--rm", "-i"),
    },
    "compose up": {"--build", "--detach"},
    "compose down": {"--volumes"},
    "compose exec": {"-T"},
}


def commands(page: str) -> list[str]:
    """Return the commands of a page's blocks of shell, with continued lines joined."""
    blocks = re.findall(r"```sh\n(.*?)```", page, re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line for line in lines if line.strip() and not line.startswith("#")]


INLINE = re.findall(r"`((?:docker|sidecart) [^`]+)`", IMAGE)
SHELL = commands(IMAGE) + [command for page in OTHERS for command in commands(page) if command.startswith("docker")]


def test_there_are_commands_to_check() -> None:
    assert len(SHELL) >= 15
    assert {command.split()[0] for command in INLINE} == {"docker", "sidecart"}


@pytest.mark.parametrize("command", SHELL + [inline for inline in INLINE if inline.startswith("docker")])
def test_command_can_be_right(command: str) -> None:
    words = shlex.split(command.partition(" < ")[0])
    if words[0] == "docker":
        look_at_docker(words[1:])
    elif words[0] == "psql":
        look_at_psql(words[1])
    elif words[:4] == [".venv/bin/python", "-m", "pytest", "-q"]:
        assert (ROOT / words[-1]).is_file()
    elif command.startswith("export PGPASSWORD=$(docker "):
        look_at_docker(shlex.split(command.partition("$(docker ")[2].rstrip(")")))
    else:
        assert command.startswith(WITHOUT_DAEMON), f"nothing here checks {words[0]}"


def look_at_docker(words: list[str]) -> None:
    verb = " ".join(words[:2]) if words[0] == "compose" else words[0]
    rest = words[len(verb.split()) :]
    given: list[tuple[str, str]] = []
    while rest and rest[0].startswith("-"):
        option = rest.pop(0)
        assert option in DOCKER_OPTIONS[verb], f"docker {verb} {option}"
        switch = option in ("--detach", "--read-only", "--rm", "-i", "--build", "--volumes", "-T")
        given.append((option, "" if switch else rest.pop(0)))
    for option, value in given:
        if option == "--build-arg":
            assert re.search(rf"^ARG {value.partition('=')[0]}=", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
        elif option == "--env":
            name, _, text = value.partition("=")
            assert name == "SIDECART_CONFIG" or load(None, {**MINIMAL, name: text})
        elif option in ("-p", "--publish"):
            assert value == f"127.0.0.1:6432:{load(None, MINIMAL).listen.port}"
    if verb == "build":
        assert rest == ["."]
    elif verb == "run":
        assert rest.pop(0) == "sidecart"
        assert not rest or rest[0] in VERBS
    elif verb == "compose exec":
        assert rest[0] in COMPOSE["services"]
        assert rest[1:] == ["cat", COMPOSE["services"]["sidecart"]["environment"]["SIDECART_UPSTREAM_PASSWORD_FILE"]]


def look_at_psql(keywords: str) -> None:
    given = dict(pair.split("=") for pair in keywords.split())
    environment = COMPOSE["services"]["sidecart"]["environment"]
    assert (given["dbname"], given["user"]) == (environment["DB_NAME"], environment["DB_READONLY_USERNAME"])
    assert f"127.0.0.1:{given['port']}:6432" in COMPOSE["services"]["sidecart"]["ports"]


@pytest.mark.parametrize("inline", sorted({inline for inline in INLINE if inline.startswith("sidecart")}))
def test_verb_and_its_options_exist(inline: str) -> None:
    _, verb, *options = inline.split()
    assert verb in VERBS
    command = importlib.import_module(f"proxy.commands.{verb}").command
    known = {name for parameter in command.params if isinstance(parameter, click.Option) for name in parameter.opts}
    assert {option for option in options if option.startswith("-")} <= known


def test_sql_of_standard_input_is_checked_as_the_page_says() -> None:
    assert "docker run --rm -i sidecart check - < reports.sql" in IMAGE
    done = subprocess.run(
        [sys.executable, "-m", "proxy", "check", "-"],
        input="DELETE FROM t;",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "cannot execute DELETE" in done.stdout


def test_probes_are_commands_of_the_image() -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", IMAGE, re.DOTALL)
    probes = yaml.safe_load(block)
    assert probes["livenessProbe"]["exec"]["command"] == ["sidecart", "health", "--live"]
    assert probes["readinessProbe"]["exec"]["command"] == ["sidecart", "health"]
