"""Make what the services of compose.yaml trust each other by: passwords, a CA, and the server's certificate.

Runs in SideCart's own image, as root with the right to give files away and no other, and without a network. It keeps
what is there: the server's data remember the owner's password. A volume for each reader: SideCart never sees the
owner's password, nor the server's key.
"""

from __future__ import annotations

import os
import secrets
import sys
from pathlib import Path

from proxy.demo.private_ca import server_certificate

POSTGRES_UID = 999
"""Of the user postgres in the Debian images of PostgreSQL."""
SIDECART_UID = 65532
DAYS = 825
"""Life of the certificate. Remove the volumes before it ends: `docker compose down --volumes`."""


def prepare(postgres: Path, sidecart: Path) -> bool:
    """Fill both folders; return False, and change nothing, if that was done before."""
    if (sidecart / "reader_password").exists():
        return False
    made = server_certificate(hosts=("postgres",), days=DAYS)
    reader = secrets.token_urlsafe(24).encode()
    for name, content in (
        ("server.pem", made.certificate),
        ("server.key", made.key),
        ("owner_password", secrets.token_urlsafe(24).encode()),
        ("reader_password", reader),
    ):
        give(postgres / name, content, POSTGRES_UID)
    # Last of all: its presence says that the rest is there.
    for name, content in (("ca.pem", made.ca), ("reader_password", reader)):
        give(sidecart / name, content, SIDECART_UID)
    return True


def give(path: Path, content: bytes, uid: int) -> None:
    """Write a file that this user alone may read."""
    path.unlink(missing_ok=True)  # of a run that was cut short; without DAC_OVERRIDE root may not write to it
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        if os.geteuid() == 0:
            os.fchown(descriptor, uid, uid)


if __name__ == "__main__":
    print("made" if prepare(Path(sys.argv[1]), Path(sys.argv[2])) else "kept")
