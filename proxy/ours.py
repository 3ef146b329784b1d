"""Names that SideCart gives to what it makes on upstreams. No client can know one: whatever name it chooses is its own.

SQL and protocol share one namespace of statements, and one of portals and cursors. Whoever reads the server's log can
read the names there, so a client that uses one all the same is told that there is no such thing.
"""

from __future__ import annotations

import secrets
from typing import Final

PREFIX: Final = b"sidecart:" + secrets.token_hex(8).encode() + b":"
"""Begins every one of them. It is another one in each process."""
NO_NAME: Final = PREFIX + b"none"
"""No statement has it, and no portal: to close it does nothing, to execute it fails."""
