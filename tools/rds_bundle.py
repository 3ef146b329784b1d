"""Put AWS's current bundle of RDS CAs in the place of the shipped one: `python tools/rds_bundle.py URL SHA256 TARGET`.

The image's build calls it where its argument RDS_CA_URL is set. Standard library only: it runs before anything else is
installed. An empty SHA256 is not checked; the download is then as trustworthy as the TLS connection.
"""

from __future__ import annotations

import hashlib
import ssl
import sys
import urllib.request
from pathlib import Path

LIMIT = 4 << 20


def fetch(url: str) -> bytes:
    """Download over https. Raises ValueError for another scheme and for what is longer than LIMIT."""
    if not url.startswith("https://"):
        raise ValueError(f"{url} is no https address")
    with urllib.request.urlopen(url, timeout=60) as answer:  # noqa: S310 (https, as was looked at just now)
        content: bytes = answer.read(LIMIT + 1)
    if len(content) > LIMIT:
        raise ValueError(f"{url} is longer than {LIMIT} bytes")
    return content


def install(content: bytes, sha256: str, target: Path) -> int:
    """Write a bundle of PEM certificates and return their number. Raises ValueError for anything else."""
    found = hashlib.sha256(content).hexdigest()
    if sha256 and found != sha256.lower():
        raise ValueError(f"the bundle has SHA-256 {found}, not {sha256}")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(cadata=content.decode("ascii"))
    except (UnicodeDecodeError, ssl.SSLError) as error:
        raise ValueError(f"this is no bundle of PEM certificates: {error}") from error
    target.write_bytes(content)
    return len(context.get_ca_certs())


if __name__ == "__main__":
    try:
        print(f"{install(fetch(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))} CAs of Amazon RDS")
    except (OSError, ValueError) as error:
        sys.exit(f"rds_bundle: {error}")
