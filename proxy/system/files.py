"""Open the files that the configuration names: regular ones only, so that nobody ever waits for a file.

A FIFO or a device at such a path would hold whoever opens or reads it, the event loop included, until somebody writes.
"""

from __future__ import annotations

import os
import stat
from typing import Final

LONGEST: Final = 16 << 20
"""Bytes that a file may have: 100,000 users have as many lines of 170, 300,000 revoked certificates as many of 48."""
SMALL: Final = 1 << 20
"""Bytes of one with certificates, a key or the configuration: all public CAs have 200 kB, and for 1 MB of them OpenSSL
needs half a second."""

# O_NONBLOCK: opening returns at once whatever it is. O_NOCTTY: a terminal does not become ours by it. Windows has none.
_AT_ONCE: Final = sum(getattr(os, name, 0) for name in ("O_NONBLOCK", "O_NOCTTY", "O_CLOEXEC", "O_BINARY"))
_NO_LINK: Final = getattr(os, "O_NOFOLLOW", 0)


class FileError(Exception):
    """A file cannot be used; the text says why, as what follows its name in a sentence, without a full stop."""


def read(path: str, longest: int = LONGEST, *, private: bool = False) -> bytes:
    """Return what a regular file holds. Raises FileError.

    A link is followed: Kubernetes replaces a secret by one. `private`: the file holds what nobody else may read, and
    is refused where others may, as PostgreSQL and libpq refuse a key (check_ssl_key_file_permissions() in
    libpq/be-secure-common.c, initialize_SSL() in fe-secure-openssl.c). What is looked at is what is read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | _AT_ONCE)
        try:
            found = _regular(descriptor)
            if private:
                _check_private(found)
            with open(descriptor, "rb", closefd=False) as file:
                content = file.read(longest + 1)
        finally:
            os.close(descriptor)
    except (OSError, ValueError) as error:
        raise FileError(f"cannot be read: {_why(error)}") from error
    if len(content) > longest:
        raise FileError(f"holds more than {longest} bytes")
    return content


def append(path: str) -> int:
    """Open a regular file to write at its end, and return the descriptor; a new one is its owner's alone.

    Raises FileError. No link is followed, and a file is refused that others own or may write to: in a folder where
    everybody may make files, another user chooses neither where the lines go nor what stands among them.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | _NO_LINK | _AT_ONCE, 0o600)
    except (OSError, ValueError) as error:
        why = "it is a symbolic link" if os.path.islink(path) else _why(error)
        raise FileError(f"cannot be opened: {why}") from error
    try:
        found = _regular(descriptor)
        if os.name != "nt" and (found.st_mode & stat.S_IWOTH or not _ours(found)):
            raise FileError(
                "must belong to the user that runs SideCart, or to root, and others must not be able to write to it;"
                f" its permissions are {stat.S_IMODE(found.st_mode):04o}"
            )
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _regular(descriptor: int) -> os.stat_result:
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        raise FileError("is no regular file")
    return found


def _check_private(found: os.stat_result) -> None:
    if os.name == "nt":
        return
    # What root owns may be readable for a group, so that one file serves several users.
    forbidden = 0o037 if found.st_uid == 0 else 0o077
    if found.st_mode & forbidden or not _ours(found):
        raise FileError(
            "must belong to the user that runs SideCart, with permissions 0600 or less, or to root, with 0640 or less;"
            f" its permissions are {stat.S_IMODE(found.st_mode):04o}"
        )


def _ours(found: os.stat_result) -> bool:
    return found.st_uid in (0, os.geteuid())


def _why(error: OSError | ValueError) -> str:
    return error.strerror or type(error).__name__ if isinstance(error, OSError) else "not a file name"
