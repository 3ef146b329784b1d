"""The role's password: where it comes from, again for each new connection, and what happens when it is rotated.

A rotation drops no client: connections stay, and new ones take the password that is valid then. Where the server says
28P01 the password is fetched again, once, before the login counts as failed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from proxy.config.schema import Upstream
from proxy.databases import aws
from proxy.errors import CloseReason, ConfigError, UpstreamError
from proxy.stats import Stats
from proxy.system import environment, files
from proxy.tasks import Shared, Tasks

MAX_PASSWORD: Final = 65_536
"""Bytes that a file may have, or a program may print. A token of IAM has about 2,000 at most."""
LAST_WORDS: Final = 1.0
"""Seconds in which the pipe of a program that was killed has to end."""
COMMAND_SECONDS: Final = 10.0
"""Seconds that a program may take to print it."""
FETCH_SECONDS: Final = 20.0
"""Seconds that a login waits for it, wherever it comes from. The limits of a program and of Amazon are shorter."""
_AMAZON: Final = ("AWS_", "SSL_CERT_", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy")
"""How the names of variables begin that a program gets beside the ordinary ones: who it is for Amazon, whose command is
the usual one, and how it gets there. DB_ADMIN_PASSWORD and other secrets are none of its business; what else it needs
(VAULT_ADDR) is named in upstream.password_command_env."""
CLONE: Final = "_clone"
"""What Amazon's rotation of alternating users puts behind the name of the second one."""
AGAIN: Final = 10.0
"""Seconds from one fetch of a refused password to the next: a wrong one is no reason to keep Amazon busy."""


@dataclass(frozen=True, slots=True)
class Secret:
    """Hold what the role logs in with."""

    user: str
    password: str = field(repr=False)


class Credentials:
    """Know the password of one upstream's role."""

    def __init__(
        self,
        config: Upstream,
        stats: Stats,
        tasks: Tasks,
        now: Callable[[], float],
        environ: Mapping[str, str] = os.environ,
        service: aws.Aws | None = None,
    ) -> None:
        self._config = config
        self._stats = stats
        self._now = now
        self._aws = service or aws.Aws(config, environ)
        self._environment = environment.small(environ, config.password_command_env, _AMAZON)
        self._known: Secret | None = None
        self._accepted: Secret | None = None
        self._fetched_again = float("-inf")
        self._read: Shared[Secret] | None = None
        self.source = next((key for key in _SOURCES if getattr(config, key)), "")
        """The key of the configuration that says where it comes from; empty: there is none, or `password`."""
        if self.source:
            self._read = Shared(tasks, self._fetch, f"credential {self.source}")

    def check(self) -> None:
        """Raise ConfigError for what can be known to be wrong before anything is fetched."""
        aws.check(self._config)
        try:
            words = shlex.split(self._config.password_command)
        except ValueError:
            raise ConfigError("upstream.password_command has a quote or a backslash without its counterpart.") from None
        if self._config.password_command and not words:
            raise ConfigError("upstream.password_command names no program.")

    @property
    def current(self) -> Secret | None:
        """Return what the server has accepted last, else what was fetched last; None: nothing yet, or tokens."""
        if self._config.aws_iam:
            return None
        return self._accepted or self._known or (None if self._read else self._fixed())

    async def get(self) -> Secret:
        """Return what a new connection is to log in with. Raises UpstreamError."""
        if self._read is None:
            return self._fixed()
        if self._config.aws_secret and self._known is not None:
            return self._known
        return await self._soon(self._read)

    async def get_again(self, refused: Secret) -> Secret | None:
        """Return another password than this one, which the server has refused; None: there is no other."""
        if self._read is None or self._config.aws_iam:
            return None
        if self._known is not None and self._known != refused:
            return self._known  # somebody else has fetched it meanwhile
        if not (self._read.under_way or self._config.password_file):
            if self._now() < self._fetched_again + AGAIN:
                return None
            self._fetched_again = self._now()
        known = await self._soon(self._read)
        return known if known != refused else None

    def accepted(self, secret: Secret) -> None:
        """Note that the server has let the role in with it."""
        self._accepted = secret

    @property
    def rotates(self) -> bool:
        """Whether a password that is refused now may be replaced soon: it has been right before, and can change."""
        return self._read is not None and self._accepted is not None

    def forget(self) -> None:
        """Fetch it anew for the next connection, whatever is known."""
        self._known = None

    def _fixed(self) -> Secret:
        return Secret(self._config.user, self._config.password)

    async def _soon(self, read: Shared[Secret]) -> Secret:
        """Wait for a fetch, but not for ever: a file can be on a disk that has gone."""
        try:
            async with asyncio.timeout(FETCH_SECONDS):
                return await read()
        except TimeoutError:
            raise _no_password(f"{self.source} gave none within {FETCH_SECONDS:g} s") from None

    async def _fetch(self) -> Secret:
        try:
            secret = await self._fetch_from(self.source)
        except (aws.AwsError, _UnusableError) as error:
            self._stats.credential_fetches[self.source, "failed"] += 1
            raise _no_password(str(error)) from error
        self._stats.credential_fetches[self.source, "ok"] += 1
        self._known = secret
        return secret

    async def _fetch_from(self, source: str) -> Secret:
        user = self._config.user
        if source == "password_file":
            return Secret(user, await asyncio.to_thread(_read_file, self._config.password_file))
        if source == "password_command":
            return Secret(user, await _run(shlex.split(self._config.password_command), self._environment))
        if source == "aws_iam":
            return Secret(user, await asyncio.to_thread(self._aws.token))
        named, password = await asyncio.to_thread(self._aws.secret)
        # RDS can rotate two users in turn: whose password it is, the secret says. But nobody becomes the owner of the
        # database by naming the wrong secret.
        if named and named.removesuffix(CLONE) != user.removesuffix(CLONE):
            raise _UnusableError(
                f"the secret of upstream.aws_secret is that of the role {named!a}, and upstream.user is {user!a}: name"
                " the secret of the read-only role"
            )
        return Secret(named or user, password)


def _no_password(cause: str) -> UpstreamError:
    text = "SideCart could not get the password of its role"
    return UpstreamError(text, reason=CloseReason.UPSTREAM_LOGIN, cause=cause)


_SOURCES: Final = ("password_file", "password_command", "aws_secret", "aws_iam")


class _UnusableError(Exception):
    """There is no password to be had; the text, for the operator, says why."""


def _read_file(path: str) -> str:
    where = f"upstream.password_file {path!r}"
    try:
        return _password(files.read(path, MAX_PASSWORD, private=True), where)
    except files.FileError as error:
        raise _UnusableError(f"{where} {error}") from error


def _password(content: bytes, where: str) -> str:
    """Return what a file or a program holds, without the line feed that editors and echo put behind it."""
    content = content.removesuffix(b"\n").removesuffix(b"\r")
    if not content:
        raise _UnusableError(f"{where} is empty")
    # What is not UTF-8 goes out as the bytes that it came in: auth.py has the counterpart.
    return content.decode("utf-8", "surrogateescape")


async def _run(words: list[str], variables: Mapping[str, str]) -> str:
    """Run a program, without a shell, and return what it prints. It has its time, and its children end with it."""
    name = "upstream.password_command"  # what it is may be a secret
    try:
        process = await asyncio.create_subprocess_exec(
            *words,
            env=variables,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "a word of it is no text"
        raise _UnusableError(f"{name} cannot be run: {why}") from error
    assert process.stdout is not None  # noqa: S101  # nosec B101
    try:
        async with asyncio.timeout(COMMAND_SECONDS):
            content = b""
            while len(content) <= MAX_PASSWORD and (piece := await process.stdout.read(MAX_PASSWORD)):
                content += piece
            code = await process.wait() if len(content) <= MAX_PASSWORD else 0
    except TimeoutError:
        raise _UnusableError(f"{name} did not end within {COMMAND_SECONDS:g} s") from None
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            # wait() waits for the end of the pipe as well, which nobody sees while it is full; and a child that has
            # left the group may hold it open.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LAST_WORDS):
                    while await process.stdout.read(MAX_PASSWORD):
                        pass
                    await process.wait()
    if len(content) > MAX_PASSWORD:
        raise _UnusableError(f"{name} prints more than {MAX_PASSWORD} bytes: it must be the password alone")
    if code:
        raise _UnusableError(f"{name} ended with exit code {code}")
    return _password(content, name)
