"""Fetch a page of the SideCart that runs on this machine, where the configuration says, and read what it says of it."""

from __future__ import annotations

import http.client
import ipaddress
import json
import time
from typing import Any, Final

from proxy.config.schema import Config
from proxy.errors import SideCartError

PATIENCE: Final = 3.0
"""Seconds in which a page has to come: it is made of what is known, and asks nobody."""
MAX_PAGE: Final = 64 << 20
"""Bytes: what /sessions says of 200,000 clients."""


class NoAnswerError(SideCartError):
    """There is no page: the text says why, as the end of a sentence.

    `asked` is False where the configuration has no page that could be asked for; `refused` says that nothing listens.
    """

    def __init__(self, message: str, *, asked: bool = True, refused: bool = False) -> None:
        super().__init__(message)
        self.asked = asked
        self.refused = refused


def here(host: str) -> str:
    """Return the address at which this machine reaches what listens on `host`."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if not address.is_unspecified:
        return host
    return "127.0.0.1" if address.version == 4 else "::1"  # it listens on all of them


def fetch(config: Config, path: str, key: str = "") -> tuple[int, bytes]:
    """Return status and body of a page of the metrics port, which may want a key. Raises NoAnswerError."""
    if not config.metrics.enabled:
        raise NoAnswerError("metrics.enabled is false, so there is no page to ask.", asked=False)
    if not config.metrics.port:
        raise NoAnswerError("metrics.port is 0, so nobody knows which port to ask; set a fixed one.", asked=False)
    host, port = here(config.metrics.host), config.metrics.port
    deadline = time.monotonic() + PATIENCE
    connection = http.client.HTTPConnection(host, port, timeout=PATIENCE)  # no proxy of the environment, unlike urllib
    try:
        connection.request("GET", path, headers={"Authorization": f"Bearer {key}"} if key else {})
        response = connection.getresponse()
        page = bytearray()
        # A piece at a time: what drips never meets the timeout of one read.
        while piece := response.read1(1 << 16):
            page += piece
            if len(page) > MAX_PAGE or time.monotonic() > deadline:
                raise NoAnswerError(f"what answers on {host} port {port} does not come to an end.")
        return response.status, bytes(page)
    except (OSError, http.client.HTTPException) as error:
        why = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise NoAnswerError(
            f"nothing answers on {host} port {port} ({why}); is `sidecart serve` running?",
            refused=isinstance(error, ConnectionRefusedError),
        ) from error
    finally:
        connection.close()


def judge(status: int, page: bytes, *, live: bool = False) -> tuple[bool, str]:
    """Turn /readyz, or /healthz if `live`, into whether all is well, and one line that says why not."""
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
