"""The Unix socket `.s.PGSQL.<port>`: made, guarded by a lock file, and removed again.

The lock is on `.s.PGSQL.<port>.lock`, which holds our process number, as PostgreSQL's does. The kernel drops it when
the process ends, however that happens: a socket without it is a dead process's, unless somebody answers there.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from collections.abc import Callable
from typing import Final

from proxy.config.schema import Listen
from proxy.errors import ConfigError, InUseError

try:
    import fcntl
    import grp
    import pwd
except ImportError:  # Windows
    fcntl = grp = pwd = None  # type: ignore[assignment]

LONGEST_PATH: Final = 107
"""Bytes of a path that a socket can have on Linux (UNIXSOCK_PATH_BUFLEN is one more)."""


class UnixSocket:
    """Listen on the socket in `config.unix_socket_dir` for this port.

    Raises InUseError where somebody else listens there, ConfigError for a folder, an owner or a group that cannot be
    used.
    """

    __slots__ = ("_inode", "_lock", "_lock_path", "listener", "path")

    def __init__(self, config: Listen, port: int) -> None:
        self.path = os.path.join(config.unix_socket_dir, f".s.PGSQL.{port}")
        self._lock_path = f"{self.path}.lock"
        self._inode = 0
        if fcntl is None:
            raise ConfigError("listen.unix_socket_dir is set, and this system has no Unix sockets; leave it empty.")
        if len(os.fsencode(self.path)) > LONGEST_PATH:
            raise ConfigError(
                f"listen.unix_socket_dir {config.unix_socket_dir!r} is too long: the socket's path may have"
                f" {LONGEST_PATH} bytes, and {self.path!r} has {len(os.fsencode(self.path))}."
            )
        owner = _number(config.unix_socket_owner, "listen.unix_socket_owner", lambda name: pwd.getpwnam(name).pw_uid)
        group = _number(config.unix_socket_group, "listen.unix_socket_group", lambda name: grp.getgrnam(name).gr_gid)
        self._lock = self._take_lock(config.unix_socket_dir)
        try:
            self._remove_stale()
        except BaseException:
            os.close(self._lock)  # the lock file stays: it may be PostgreSQL's, which does not lock it
            raise
        os.ftruncate(self._lock, 0)
        os.write(self._lock, f"{os.getpid()}\n".encode())
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self.listener.setblocking(False)
            self.listener.bind(self.path)
            self._inode = os.stat(self.path).st_ino
            # Nobody can connect before listen(): until then the socket has its owner and its permissions.
            self._give(owner, group)
            os.chmod(self.path, config.unix_socket_mode)
            self.listener.listen(config.backlog)
        except BaseException as error:
            self.close()
            if isinstance(error, OSError):
                raise ConfigError(f"The Unix socket {self.path!r} cannot be made: {error.strerror}.") from error
            raise

    def close(self) -> None:
        """Stop listening; remove the socket, if it is still ours, and the lock file."""
        self.listener.close()
        with contextlib.suppress(OSError):
            if self._inode and os.stat(self.path).st_ino == self._inode:
                os.unlink(self.path)
        with contextlib.suppress(OSError):
            os.unlink(self._lock_path)  # while it is locked: nobody else can hold a lock on a file of that name
        os.close(self._lock)

    def _take_lock(self, folder: str) -> int:
        try:
            while True:
                flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
                lock = os.open(self._lock_path, flags, 0o600)
                try:
                    found = os.fstat(lock)
                    if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:  # another file by a second name?
                        raise ConfigError(f"{self._lock_path!r} is no lock file; remove it.")
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    if os.fstat(lock).st_ino == _inode(self._lock_path):
                        return lock
                except BaseException:
                    os.close(lock)
                    raise
                os.close(lock)  # its owner has removed it meanwhile
        except BlockingIOError as error:
            raise self._in_use() from error
        except OSError as error:
            raise ConfigError(
                f"listen.unix_socket_dir {folder!r} cannot be used: {error.strerror}"
                f" ({os.path.basename(self._lock_path)}); name a folder that SideCart may write to."
            ) from error

    def _remove_stale(self) -> None:
        """Remove the socket that a dead process has left. One that answers is another program's."""
        try:
            is_socket = stat.S_ISSOCK(os.lstat(self.path).st_mode)
        except FileNotFoundError:
            return
        if not is_socket:
            raise ConfigError(f"{self.path!r} is there and is no socket; remove it.")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.setblocking(False)
            code = probe.connect_ex(self.path)
        if code != errno.ECONNREFUSED:  # EAGAIN, too: its queue is full; EACCES: nobody can say
            raise self._in_use()
        os.unlink(self.path)

    def _in_use(self) -> InUseError:
        return InUseError(
            f"The Unix socket {self.path!r} is in use by another program: stop that program, or choose another"
            " listen.port or listen.unix_socket_dir."
        )

    def _give(self, owner: int, group: int) -> None:
        if owner < 0 and group < 0:
            return
        try:
            os.chown(self.path, owner, group)
        except PermissionError as error:
            raise ConfigError(
                "listen.unix_socket_owner and listen.unix_socket_group: only root may give the socket to another user,"
                " and others only to a group that they belong to."
            ) from error


def _inode(path: str) -> int:
    try:
        return os.stat(path).st_ino
    except FileNotFoundError:
        return 0


def _number(name: str, key: str, look_up: Callable[[str], int]) -> int:
    """Return the number of a user or group; -1 for none."""
    if not name:
        return -1
    if name.isascii() and name.isdigit() and int(name) < 1 << 31:
        return int(name)
    try:
        return look_up(name)
    except KeyError:
        raise ConfigError(f"{key} is {name!r}, and nobody has that name on this system.") from None
