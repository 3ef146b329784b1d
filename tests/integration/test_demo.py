"""`sidecart demo` as a person runs it: it answers, refuses, says what is wrong, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.running import free_port

READY_SECONDS = 30.0


@dataclass
class Demo:
    """A running demo: what it printed so far, and how to speak to it."""

    process: subprocess.Popen[str]
    port: int
    metrics_port: int
    folder: Path
    screen: str = ""

    def read_until(self, text: str) -> None:
        """Read its screen up to a line with this text; fail if it ends before."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.screen += line
            if text in line:
                return
        pytest.fail(f"the demo ended before it printed {text!r}:\n{self.screen}")

    def end(self, number: signal.Signals = signal.SIGINT) -> int:
        """Send a signal, read the rest of the screen, return the exit code."""
        self.process.send_signal(number)
        rest, _ = self.process.communicate(timeout=20)
        self.screen += rest
        return self.process.returncode

    def left_behind(self) -> list[str]:
        """Return files in its folder for temporary files, and processes that run from there."""
        found = [str(path) for path in self.folder.iterdir()]
        for commands in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                command = commands.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if str(self.folder) in command:
                found.append(command)
        return found


def _heed_signals() -> None:
    """Undo what a test run in the background (nohup, `&` in a script) would hand down: ignored signals."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


@contextmanager
def running(folder: Path, **environ: str) -> Iterator[Demo]:
    port, metrics_port = free_port(), free_port()
    command = [sys.executable, "-m", "proxy", "demo", "--port", str(port), "--metrics-port", str(metrics_port)]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"TMPDIR": str(folder), "PGHOST": "nowhere.invalid"} | environ,
        preexec_fn=_heed_signals,
    )
    try:
        yield Demo(process, port, metrics_port, folder)
    finally:
        if process.poll() is None:
            process.terminate()
        process.communicate(timeout=20)


@pytest.fixture
def folder() -> Iterator[Path]:
    """Give the demo a folder of its own for temporary files: short, and open to the server's user."""
    path = Path("/tmp") / f"demo-test-{os.getpid()}-{time.monotonic_ns() % 1_000_000}"
    path.mkdir()
    path.chmod(0o1777)
    yield path
    path.rmdir()  # fails if something is left


def ask(psql: Path, demo: Demo, statement: str) -> subprocess.CompletedProcess[str]:
    target = f"host=127.0.0.1 port={demo.port} dbname=shop user=analyst connect_timeout=10"
    return subprocess.run([psql, target, "-XAtc", statement], capture_output=True, text=True, timeout=30, check=False)


def finds_and_closes_its_holes(demo: Demo) -> None:
    """Run what the screen says of the role: `doctor` finds what was planted, and nothing after `--revoke-public`."""
    doctor, role = re.findall(r"^  \((\. .*)\)$", demo.screen, re.MULTILINE)

    def shell(line: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["sh", "-c", line], capture_output=True, text=True, timeout=60, check=False)

    done = shell(f"{doctor} --json")
    (answer,) = json.loads(done.stdout)
    found = {(each["kind"], each["subject"]): each["severity"] for each in answer["findings"]}
    assert {place: severity for place, severity in found.items() if severity in ("warning", "critical")} == {
        ("security-definer", "FUNCTION public.cancel_order(integer)"): "critical",
        ("writable-table", "TABLE public.newsletter"): "critical",
        ("temporary", "DATABASE shop"): "warning",
    }
    assert done.returncode == 3
    assert shell(role).returncode == 0
    done = shell(doctor)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("This role reads, and does nothing else. 1 info.\n")


def test_demo_answers_reads_refuses_writes_and_leaves_nothing(folder: Path, tool: Callable[[str], Path]) -> None:
    psql = tool("psql")
    started = time.monotonic()
    with running(folder) as demo:
        demo.read_until("Ctrl-C stops")
        answer = ask(psql, demo, "select count(*) from orders")
        seconds = time.monotonic() - started
        assert (answer.stdout, answer.returncode) == ("100000\n", 0), answer.stderr
        # Under 3 s on two free cores; the rest is for a machine that does something else too.
        assert seconds < 15, f"from start to the first answer took {seconds:.1f} s"

        # The lines that it tells people to paste: each does what the screen says of it.
        pasted = re.findall(r'-c "([^"]+)"', demo.screen)
        assert len(pasted) == 4
        for statement in pasted[:2]:
            assert ask(psql, demo, statement).returncode == 0
        for statement in pasted[2:]:
            refused = ask(psql, demo, statement)
            assert refused.returncode == 1
            assert "ERROR" in refused.stderr
        assert ask(psql, demo, "select status from orders where id = 1").stdout == "paid\n"
        finds_and_closes_its_holes(demo)
        with urllib.request.urlopen(f"http://127.0.0.1:{demo.metrics_port}/metrics", timeout=10) as page:
            assert b"sidecart_statements_total" in page.read()

        assert demo.end() == 0
        assert demo.screen.endswith("Stopped; nothing is left of it.\n")
        assert demo.left_behind() == []


def test_terminated_demo_leaves_nothing(folder: Path) -> None:
    with running(folder) as demo:
        demo.read_until("Ctrl-C stops")
        assert demo.end(signal.SIGTERM) == 0
        assert demo.left_behind() == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("moment", ["Starting an embedded", "PostgreSQL 1"])
def test_demo_interrupted_while_it_starts_leaves_nothing(folder: Path, moment: str, number: signal.Signals) -> None:
    with running(folder) as demo:
        demo.read_until(moment)
        assert demo.end(number) == 130
        assert "Traceback" not in demo.screen
        assert demo.left_behind() == []


def test_port_in_use_is_one_sentence(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for option in ("--port", "--metrics-port"):
            command = [sys.executable, "-m", "proxy", "demo", option, str(port)]
            other = ["--metrics-port" if option == "--port" else "--port", str(free_port())]
            done = subprocess.run([*command, *other], capture_output=True, text=True, timeout=20, check=False)
            assert done.returncode == 1
            assert done.stderr == (
                f"Port {port} of 127.0.0.1 is in use by another program: stop that program, or choose another port with"
                f" {option}.\n"
            )


def test_missing_server_is_one_sentence(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from proxy.demo import embedded

    monkeypatch.setattr(embedded, "_candidates", lambda: iter([(folder, False)]))
    with pytest.raises(embedded.EmbeddedError, match="No PostgreSQL server was found on PATH"):
        embedded.find_bin_dir()


def test_stray_initdb_on_path_is_not_taken(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from proxy.demo import embedded

    stray = folder / "initdb"
    stray.write_text("#!/bin/sh\necho initdb PostgreSQL 99\n")
    stray.chmod(0o755)
    try:
        monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
        assert embedded.find_bin_dir()[0] != folder
    finally:
        stray.unlink()


def test_server_that_does_not_start_shows_its_log_and_leaves_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from proxy.demo.embedded import EmbeddedError, EmbeddedServer

    monkeypatch.setattr("tempfile.tempdir", str(folder))
    with (
        pytest.raises(EmbeddedError, match="did not start") as caught,
        EmbeddedServer(settings={"shared_preload_libraries": "no_such_library"}),
    ):
        pytest.fail("it started")
    assert 'could not access file "no_such_library"' in str(caught.value)
    assert list(folder.iterdir()) == []


def test_upstream_can_go_away_and_come_back() -> None:
    from proxy.demo.embedded import EmbeddedServer

    with EmbeddedServer() as server:
        server.sql("create table kept as select 1 as one")
        port = server.port
        server.halt(signal.SIGINT)
        server.start()
        assert server.port == port
        assert server.sql("select one from kept") == "1\n"
