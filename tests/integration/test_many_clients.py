"""Many clients on few upstreams, each with its own settings and statements, get every byte of what a private one gets.

The load and the checks are those of bench/many_clients.py, in a process of its own.
"""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("clients", "upstreams", "seconds"), [(200, 4, 10), pytest.param(2000, 10, 300, marks=pytest.mark.deep)]
)
def test_clients_with_settings_of_their_own_get_no_wrong_answer_and_no_pin(
    clients: int, upstreams: int, seconds: int
) -> None:
    options = ["--clients", str(clients), "--upstreams", str(upstreams), "--seconds", str(seconds)]
    done = subprocess.run(
        [sys.executable, "-m", "bench.many_clients", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=seconds + 300,
    )
    print(done.stdout)
    assert done.returncode == 0
    assert f"{clients} clients, {upstreams} upstreams" in done.stdout
    assert "  0 wrong answers, 0 pins, 0 bugs" in done.stdout
