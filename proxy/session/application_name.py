"""What the server is shown as a client's application_name, by a pattern, beside what the client calls itself."""

from __future__ import annotations

from typing import Final

from proxy.sql.literals import NAMEDATALEN

APPLICATION_NAME: Final = "application_name"
MAX_NAME: Final = NAMEDATALEN - 1
"""Bytes of an application_name that the server keeps."""


class Naming:
    """Know both names of one client: its own, and the composed one that its upstreams have.

    `own` is what the client has sent in its StartupMessage, as the server reports it.
    """

    __slots__ = ("_first", "_pattern", "_user", "own", "shown")

    def __init__(self, pattern: str, user: str, own: str) -> None:
        self._pattern = pattern
        self._user = user
        self.own = own
        self.shown = self._compose(own)
        self._first = (self.shown, own)

    def __repr__(self) -> str:
        return f"<Naming {self.own!r} as {self.shown!r}>"

    def to_client(self, value: str) -> str:
        """Return what the client is told where its server reports this: never the composed name."""
        if value == self.shown:
            return self.own
        shown, own = self._first
        return own if value == shown else value

    def take(self, value: str) -> str:
        """Note what the client's session has now; return what its upstreams are to have from here on."""
        self.own = self.to_client(value)
        self.shown = self._compose(self.own)
        return self.shown

    def _compose(self, own: str) -> str:
        # In one pass: a user who is called {application} is called so.
        parts = self._pattern.replace("{user}", "\0u").replace("{application}", "\0a").split("\0")
        words = {"u": self._user, "a": own}
        text = parts[0] + "".join(words[part[0]] + part[1:] for part in parts[1:])
        # Plain ASCII of a length that the server keeps: it then reports the very name that it was given.
        clean = "".join(char if char.isascii() and char.isprintable() else "?" for char in text)
        return clean[:MAX_NAME]
