"""`sidecart health`: ask the running process on this machine how it is, for a container's health check."""

from __future__ import annotations

import http.client
import ipaddress
import json
import sys
from pathlib import Path
from typing import Any, Final

import click

from proxy.commands.usage import config_option, configured
from proxy.config import Config
from proxy.errors import ConfigError

PATIENCE: Final = 3.0
"""Seconds in which the page has to come: it is made of what is known, and asks nobody."""
MAX_PAGE: Final = 1 << 20


@click.command()
@config_option("The config.yaml that `sidecart serve` reads; without it, the same environment.")
@click.option("--live", is_flag=True, help="Ask only whether the process works; the upstream plays no part.")
def command(config_file: Path | None, live: bool) -> None:
    """Say whether the SideCart that runs here would serve a client; exit with 0 if so, else with 1."""
    try:
        well, line = ask(configured(config_file), live=live)
    except ConfigError as error:
        well, line = False, " ".join(str(error).splitlines())
    click.echo(line, err=not well)
    sys.exit(0 if well else 1)


def ask(config: Config, *, live: bool) -> tuple[bool, str]:
    """Fetch /readyz, or /healthz, of the process with this configuration; return whether all is well, and a line."""
    if not config.metrics.enabled:
        return False, "unknown: metrics.enabled is false, so there is no page to ask."
    if not config.metrics.port:
        return False, "unknown: metrics.port is 0, so nobody knows which port to ask; set a fixed one."
    host, port = _here(config.metrics.host), config.metrics.port
    connection = http.client.HTTPConnection(host, port, timeout=PATIENCE)  # no proxy of the environment, unlike urllib
    try:
        connection.request("GET", "/healthz" if live else "/readyz")
        response = connection.getresponse()
        page = response.read(MAX_PAGE)
    except (OSError, http.client.HTTPException) as error:
        why = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return False, f"dead: nothing answers on {host} port {port} ({why}); is `sidecart serve` running?"
    finally:
        connection.close()
    return judge(response.status, page, live=live)


def _here(host: str) -> str:
    """Return the address to ask where `host` is listened on: who listens on every address is asked on the loopback."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if not address.is_unspecified:
        return host
    return "127.0.0.1" if address.version == 4 else "::1"


def judge(status: int, page: bytes, *, live: bool) -> tuple[bool, str]:
    """Turn the page into whether all is well, and one line that says why not."""
    if status == http.client.OK:
        return True, "alive" if live else "ready"
    try:
        body: Any = json.loads(page)
    except ValueError:
        body = None
    if status != http.client.SERVICE_UNAVAILABLE or not isinstance(body, dict):
        return False, f"unknown: the page has status {status}, and is none of SideCart's."
    if live or body.get("stuck"):
        return False, "stuck: the event loop has not turned for seconds."
    if body.get("draining"):
        return False, "not ready: SideCart is shutting down."
    failing = body.get("failing")
    causes = failing.items() if isinstance(failing, dict) else ()
    return False, "not ready: " + "; ".join(f"database {name}: {' '.join(str(why).split())}" for name, why in causes)
