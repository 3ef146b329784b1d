"""The forms of values: how each is written, read from its text, and written again."""

from __future__ import annotations

import base64
import binascii
import ipaddress
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

_DURATION = re.compile(r"(\d{1,12}(?:\.\d{1,6})?)\s*(ms|s|min|h|d)?", re.ASCII)
_SECONDS = {None: 1.0, "ms": 0.001, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_YEAR = 366 * 86400.0
_SIZE = re.compile(r"(\d{1,15})\s*(b|kb|mb|gb)?", re.ASCII | re.IGNORECASE)
_BYTES = {"b": 1, "": 1, "kB": 1 << 10, "MB": 1 << 20, "GB": 1 << 30}
_FACTORS = {unit.lower(): factor for unit, factor in _BYTES.items()}

Reader = Callable[[str], Any]
"""Turn the text of one value into the value, or raise ValueError with what is accepted, as the end of a sentence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """Say how the value of a key is written."""

    kind: str
    """What the manual calls it, in Markdown."""
    read: Reader | None
    """None: it is no single text, but a structure of YAML, which `load` reads."""
    write: Callable[[Any], str] = str
    """Give the text that `read` makes this value of."""
    empty: str = ""
    """What the file has where there is none."""
    items: str = ""
    """What a list in the file may hold, with commas between them where one text holds all; empty: it may be no list."""
    words: tuple[str, ...] = ()
    """Those that there are, where there are no others."""
    is_path: bool = False
    """Whether it is a path, which in a file is relative to that file's folder."""


# --- numbers ----------------------------------------------------------------------------------------------------------


def integer(low: int, high: int) -> Form:
    def read(text: str) -> int:
        digits = text.replace("_", "")
        if re.fullmatch(r"[0-9]{1,18}", digits) and low <= int(digits) <= high:
            return int(digits)
        raise ValueError(f"a whole number from {low} to {high}")

    return Form(kind=f"number, {low} to {high}", read=read)


def duration(*, zero: bool) -> Form:
    def read(text: str) -> float:
        found = _DURATION.fullmatch(text)
        if found:
            seconds = float(found[1]) * _SECONDS[found[2]]
            if (seconds > 0 or zero) and seconds <= _YEAR:
                return seconds
        least = "0 (off)" if zero else "more than 0"
        raise ValueError(f"seconds, or a duration such as 500ms, 30s, 5min or 1h; {least}, at most one year")

    return Form(kind="duration", read=read, write=_duration_text)


def _duration_text(seconds: float) -> str:
    """Write a duration in the largest unit of which it is a whole number: 300.0 is 5min."""
    for unit, factor in reversed(_SECONDS.items()):
        count = round(seconds / factor)
        if count and math.isclose(count * factor, seconds):
            return f"{count}{unit or ''}"
    return f"{seconds:g}"


def size(low: int, high: int) -> Form:
    def read(text: str) -> int:
        found = _SIZE.fullmatch(text)
        if found:
            number = int(found[1]) * _FACTORS[(found[2] or "").lower()]
            if low <= number <= high:
                return number
        raise ValueError(f"a number of bytes, or a size such as 64kB, 1MB or 1GB, from {low} to {high} bytes")

    return Form(kind="size", read=read, write=_size_text)


def _size_text(number: int) -> str:
    """Write a size in the largest unit of which it is a whole number: 1048576 is 1MB."""
    for unit, factor in reversed(_BYTES.items()):
        if number and not number % factor:
            return f"{number // factor}{unit}"
    return "0"


def _mode(text: str) -> int:
    """Read the permissions of a file as chmod writes them."""
    if re.fullmatch(r"0?[0-7]{3}", text):
        return int(text, 8)
    raise ValueError("permissions in octal, such as 0770")


MODE = Form(kind="permissions, octal", read=_mode, write=lambda mode: f"0{mode:o}")


def _rate(text: str) -> float:
    """Read how often something may happen in a second; 0 turns the limit off."""
    if re.fullmatch(r"\d{1,7}(\.\d{1,3})?", text, re.ASCII) and float(text) <= 1_000_000:
        return float(text)
    raise ValueError("a number per second from 0 (off) to 1000000, such as 50 or 0.5")


RATE = Form(kind="number per second", read=_rate, write=lambda rate: f"{rate:g}")


# --- words ------------------------------------------------------------------------------------------------------------


def choice(*words: str) -> Form:
    def read(text: str) -> str:
        if text in words:
            return text
        raise ValueError(f"one of {', '.join(words)}")

    *others, last = (f"`{word}`" for word in words)
    return Form(kind=f"{', '.join(others)} or {last}", read=read, words=words)


SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
SSL_NEGOTIATIONS = ("postgres", "direct")
CHANNEL_BINDINGS = ("disable", "prefer", "require")
"""As in libpq, like the two above."""


def _boolean(text: str) -> bool:
    word = text.lower()
    if word in ("true", "yes", "on", "1"):
        return True
    if word in ("false", "no", "off", "0"):
        return False
    raise ValueError("true or false")


BOOLEAN = Form(kind="`true` or `false`", read=_boolean, write=lambda value: str(value).lower())


def _host(text: str) -> str:
    # `db:5432` and URLs are the usual slips; an IPv6 address has at least two colons.
    if text and text.count(":") != 1 and not re.search(r"[\s@\[\]]|://", text):
        return text
    raise ValueError("a host name or an IP address alone: no port, no user, no URL, no brackets")


HOST = Form(kind="name or IP address", read=_host)


def _text(text: str) -> str:
    if "\0" in text:
        raise ValueError("text without a NUL byte")
    return text


TEXT = Form(kind="text", read=_text)
PATH = Form(kind="path", read=_text, is_path=True)


def _bearer_key(text: str) -> str:
    """Read a key that travels in an HTTP header; nobody shall guess it."""
    if len(text) >= 16 and text.isascii() and text.isprintable() and " " not in text:
        return text
    raise ValueError("at least 16 printable ASCII characters without blanks; openssl rand -hex 16 makes a key")


BEARER_KEY = Form(kind="text, 16 characters or more", read=_bearer_key)


def _application_name(text: str) -> str:
    """Read the pattern of the name that the server is shown; {user} and {application} stand for the client's own."""
    rest = text.replace("{user}", "").replace("{application}", "")
    if "{" not in rest and "}" not in rest and rest.isascii() and (rest.isprintable() or not rest):
        return text
    raise ValueError("printable ASCII text in which {user} and {application} are the only words in braces")


APPLICATION_NAME = Form(kind="text", read=_application_name)


# --- lists ------------------------------------------------------------------------------------------------------------


def _parts(text: str) -> tuple[str, ...]:
    return tuple(name for name in (part.strip() for part in text.split(",")) if name)


def _functions(text: str) -> tuple[str, ...]:
    names = _parts(text)
    if any("(" in name or ")" in name for name in names):
        raise ValueError("names of functions without their arguments, such as public.slugify")
    return names


def _extensions(text: str) -> tuple[str, ...]:
    """Read names of extensions, as CREATE EXTENSION takes them."""
    names = _parts(text)
    if any(re.search(r"[*.()\s]", name) for name in names):
        raise ValueError("names of extensions, such as unit")
    return names


SCRAM, MD5, PASSWORD, NONE = "scram-sha-256", "md5", "password", "none"
REQUIRABLE = (SCRAM, MD5, PASSWORD, NONE)
"""What a server may be let ask for, in the words of libpq's require_auth."""


def _require_auth(text: str) -> tuple[str, ...]:
    """Read the ways of authentication that are accepted from the server, as in libpq's require_auth."""
    words = _parts(text)
    if words and all(word in REQUIRABLE for word in words):
        return words
    raise ValueError(f"one or several of {', '.join(REQUIRABLE)}, separated by commas")


_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def _variables(text: str) -> tuple[str, ...]:
    """Read names of environment variables."""
    words = tuple(part.strip() for part in text.split(","))
    if all(_VARIABLE.fullmatch(word) for word in words):
        return words
    raise ValueError("names of environment variables, separated by commas")


FUNCTIONS = Form(kind="list of names", read=_functions, write=", ".join, empty="[]", items="function names")
EXTENSIONS = Form(kind="list of names", read=_extensions, write=", ".join, empty="[]", items="extension names")
REQUIRE_AUTH = Form(
    kind=f"{', '.join(f'`{word}`' for word in REQUIRABLE)}; commas between them",
    read=_require_auth,
    write=", ".join,
    words=REQUIRABLE,
)
VARIABLES = Form(kind="names, commas between them", read=_variables, write=", ".join)


# --- structures -------------------------------------------------------------------------------------------------------

RULES = Form(kind="list of rules", read=None, empty="[]")
USERS = Form(kind="names, each with its verifier", read=None)

_VERIFIER = re.compile(r"SCRAM-SHA-256\$(\d{1,9}):([A-Za-z0-9+/=]+)\$([A-Za-z0-9+/=]+):([A-Za-z0-9+/=]+)", re.ASCII)


def verifier(text: str) -> str:
    """Read what PostgreSQL keeps of a password (pg_authid.rolpassword; parse_scram_secret(), auth-scram.c)."""
    found = _VERIFIER.fullmatch(text)
    try:
        if found and int(found[1]) > 0:
            salt, stored, server = (base64.b64decode(part, validate=True) for part in found.groups()[1:])
            if salt and len(stored) == len(server) == 32:
                return text
    except binascii.Error:
        pass
    raise ValueError("a SCRAM-SHA-256 verifier as PostgreSQL keeps it; sidecart hash-password makes one")


Network = ipaddress.IPv4Network | ipaddress.IPv6Network
LOCAL, LOOPBACK, ALL = "local", "loopback", "all"
_LOOPBACKS = (ipaddress.IPv4Network("127.0.0.0/8"), ipaddress.IPv6Network("::1/128"))
_EVERYWHERE = (ipaddress.IPv4Network("0.0.0.0/0"), ipaddress.IPv6Network("::/0"))


def networks(text: str) -> tuple[Network, ...]:
    """Read where clients come from: `local` for the Unix socket (no network), `loopback`, `all`, or a CIDR block."""
    if text == LOCAL:
        return ()
    if text in (LOOPBACK, ALL):
        return _LOOPBACKS if text == LOOPBACK else _EVERYWHERE
    try:
        return (ipaddress.ip_network(text),)
    except ValueError:
        raise ValueError(
            "local (the Unix socket), loopback, all, an IP address, or a network such as 10.1.0.0/16 whose bits behind"
            " the mask are 0"
        ) from None


def is_loopback(network: Network) -> bool:
    """Say whether all addresses of a network are this machine's own."""
    return any(
        network.version == own.version and network.subnet_of(own)  # type: ignore[arg-type]
        for own in _LOOPBACKS
    )
