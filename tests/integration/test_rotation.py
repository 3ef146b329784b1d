"""What changes while clients are served: the role's password, its server's address, certificates, the log's file."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
import trustme

from proxy.auth.scram import make_verifier
from proxy.config.describe import variable
from proxy.config.schema import SECTIONS, Again, Config, PoolLimits, Upstream, key_of
from proxy.databases.addresses import Address
from proxy.databases.catalogues import LiveCatalogue
from proxy.databases.credentials import Credentials
from proxy.databases.databases import Databases
from proxy.databases.ports import Around
from proxy.databases.roles import RoleWatch
from proxy.demo.embedded import EmbeddedServer
from proxy.errors import CloseReason, UpstreamError
from proxy.pooling.snapshot import NO_SETTINGS
from proxy.sql.cache import VerdictCache
from proxy.sql.policy import Policy
from proxy.stats import Stats
from proxy.tasks import Tasks
from tests.integration.test_client_door import revoked
from tests.running import SideCart, wait_until


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedServer]:
    with EmbeddedServer(settings={"listen_addresses": "127.0.0.1,127.0.0.2"}) as server:
        server.sql("CREATE ROLE rotated LOGIN PASSWORD 'one'")
        yield server


@pytest.fixture
def rotated(server: EmbeddedServer) -> Upstream:
    server.sql("ALTER ROLE rotated PASSWORD 'one'")
    return Upstream(
        host=server.host, port=server.port, dbname="postgres", user="rotated", sslrootcert=str(server.ca_file)
    )


# --- password_command -------------------------------------------------------------------------------------------------


def run_command(command: str, environ: Mapping[str, str] = os.environ, **keys: Any) -> str:
    async def work() -> str:
        tasks = Tasks()
        now = asyncio.get_running_loop().time
        own = Credentials(Upstream(host="h", user="u", password_command=command, **keys), Stats(), tasks, now, environ)
        own.check()
        try:
            return (await own.get()).password
        except UpstreamError as error:
            assert str(error) == "SideCart could not get the password of its role"
            return f"error: {error.cause}"
        finally:
            await tasks.stop()

    return asyncio.run(work())


@pytest.mark.parametrize(
    ("command", "outcome"),
    [
        ("printf secret", "secret"),
        ("echo 'two words'", "two words"),
        ("""sh -c 'echo "$0"' $HOME""", "$HOME"),  # no shell reads it
        ("printf secret;", "secret;"),
        ("true", "error: upstream.password_command is empty"),
        ("sh -c 'echo secret; exit 3'", "error: upstream.password_command ended with exit code 3"),
        ("sh -c 'echo secret >&2; exit 1'", "error: upstream.password_command ended with exit code 1"),
        ("/no/such/secret", "error: upstream.password_command cannot be run: No such file or directory"),
        (
            "cat /dev/zero",
            "error: upstream.password_command prints more than 65536 bytes: it must be the password alone",
        ),
    ],
)
def test_password_command(command: str, outcome: str) -> None:
    assert run_command(command) == outcome


def test_attack_password_command_that_reads_the_secrets_of_the_environment() -> None:
    given = {"PATH": os.environ["PATH"], "HOME": "/h", "LANG": "C.UTF-8", "AWS_PROFILE": "reader", "https_proxy": "x"}
    secrets = {"DB_ADMIN_PASSWORD": "a", "DB_READONLY_PASSWORD": "b", "SIDECART_AUTH_USERS": "c", "PGPASSWORD": "d"}
    others = {"VAULT_TOKEN": "e", "VAULT_ADDR": "f", "GITHUB_TOKEN": "g"}
    seen = dict(line.split("=", 1) for line in run_command("env", given | secrets | others).splitlines())
    assert seen == given
    named = run_command("env", given | secrets | others, password_command_env=("VAULT_ADDR", "VAULT_TOKEN"))
    assert set(named.splitlines()) == {f"{name}={value}" for name, value in (given | others).items()} - {
        "GITHUB_TOKEN=g"
    }


def test_password_command_that_does_not_end(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("proxy.databases.credentials.COMMAND_SECONDS", 0.3)
    pid = tmp_path / "pid"
    outcome = run_command(f"""sh -c 'sleep 600 & echo $! > "{pid}"; wait'""")
    assert outcome == "error: upstream.password_command did not end within 0.3 s"
    # Its children have ended with it; one that nobody has waited for yet is a zombie.
    stat = Path(f"/proc/{pid.read_text().strip()}/stat")
    wait_until(lambda: not stat.exists() or ") Z " in stat.read_text(), 10, "the end of the program's child")


def test_password_that_never_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file on a disk that has gone: whoever waits for it is told, and so is the next."""
    monkeypatch.setattr("proxy.databases.credentials.FETCH_SECONDS", 0.1)
    assert run_command("sleep 600") == "error: password_command gave none within 0.1 s"


# --- rotation ---------------------------------------------------------------------------------------------------------


class Load:
    """Clients that run statements all the time, and count what becomes of them."""

    def __init__(self, own: SideCart, clients: int = 8) -> None:
        self.outcomes: Counter[str] = Counter()
        self._own = own
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._work) for _ in range(clients)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join(30)

    def _work(self) -> None:
        with psycopg.connect(self._own.dsn, autocommit=True, prepare_threshold=None) as client:
            while not self._ended.is_set():
                try:
                    client.execute("SELECT pg_sleep(0.01)")
                except psycopg.Error as error:
                    self.outcomes[str(error)] += 1
                    return
                self.outcomes["ok"] += 1

    def more(self, count: int) -> None:
        """Wait until so many more statements have ended."""
        before = self.outcomes.total()
        wait_until(lambda: self.outcomes.total() >= before + count, 60, "statements")


def terminate(server: EmbeddedServer) -> None:
    server.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'rotated'")


@pytest.mark.parametrize("source", ["password_file", "password_command"])
def test_rotation_under_load_fails_no_statement(
    source: str, server: EmbeddedServer, rotated: Upstream, tmp_path: Path
) -> None:
    path = tmp_path / "password"
    path.write_text("one\n")
    path.chmod(0o600)
    where = str(path) if source == "password_file" else f"cat '{path}'"
    keys: dict[str, Any] = {source: where}
    with SideCart(replace(rotated, **keys), SIDECART_POOL_DEFAULT_POOL_SIZE=4) as own:
        with Load(own) as load:
            load.more(50)
            for number, password in enumerate(("two", "three")):
                server.sql(f"ALTER ROLE rotated PASSWORD '{password}'")
                load.more(20)  # on the connections that are open
                if number == 0:  # the file first, or last: new connections are refused for a while
                    path.write_text(f"{password}\n")
                    terminate(server)
                else:
                    terminate(server)
                    wait_until(lambda: "28P01" in own.log, 20, "a login that was refused")
                    path.write_text(f"{password}\n")
                load.more(50)
        assert set(load.outcomes) == {"ok"}
        own.stop()
        assert not {"one", "two", "three"} & set(own.log.replace('"', " ").split())


class Vault:
    """Stand for Secrets Manager: count the calls."""

    def __init__(self, password: str) -> None:
        self.password = password
        self.calls = 0

    def secret(self) -> tuple[str, str]:
        self.calls += 1
        return "", self.password


class Quiet:
    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []

    def event(self, event: str, /, *, level: str = "info", **fields: str | float | bool | None) -> None:
        self.events.append((event, fields))


class Waiter:
    """A client that takes an upstream and gives it back."""

    def __init__(self) -> None:
        self.got: list[Any] = []
        self.errors: list[UpstreamError] = []

    def leased(self, upstream: Any) -> None:
        self.got.append(upstream)

    def lease_failed(self, error: UpstreamError) -> None:
        self.errors.append(error)

    def still_waiting(self, seconds: float) -> None: ...

    def holding(self) -> tuple[str, str]:
        return "x", "running"


class Idle:
    """Stands for the helper process, which is asked nothing."""


@pytest.fixture
def unread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have no catalogue read, and no role looked at."""

    async def at_once(self: object) -> None: ...

    monkeypatch.setattr(LiveCatalogue, "need", lambda self: None)
    monkeypatch.setattr(LiveCatalogue, "first", at_once)
    monkeypatch.setattr(RoleWatch, "admit", at_once)


class Stage:
    """Databases in this process, ticking."""

    def __init__(self, upstream: Upstream, resolve: Any = None, **limits: Any) -> None:
        self.loop = asyncio.get_running_loop()
        self.stats = Stats()
        self.audit = Quiet()
        self.tasks = Tasks()
        more = {} if resolve is None else {"resolve": resolve}
        pool = PoolLimits(**{"default_pool_size": 2, "min_pool_size": 2} | limits)
        around = Around(self.stats, self.audit, self.tasks, self.loop.time, lambda: 1.0)
        config = Config(upstream=upstream, pool=pool)
        self.databases = Databases(config, VerdictCache(1000), Policy(), Idle(), around, **more)  # type: ignore[arg-type]
        self.databases.start()
        self.pool = self.databases.database("postgres").pool

    @property
    def connector(self) -> Any:
        return self.pool.opener

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(30):
            while not condition():
                self.databases.tick(self.loop.time())
                await asyncio.sleep(0.01)

    async def end(self) -> None:
        self.databases.close()
        await self.tasks.stop()
        await asyncio.sleep(0.05)


@pytest.mark.usefixtures("unread")
def test_refused_secret_is_fetched_again_before_the_login_fails(server: EmbeddedServer, rotated: Upstream) -> None:
    async def work() -> None:
        stage = Stage(replace(rotated, aws_secret="shop", aws_region="eu-central-1"))
        vault = stage.connector.credentials._aws = Vault("one")
        await stage.until(lambda: len(stage.pool.idle) == 2)
        assert vault.calls == 1
        server.sql("ALTER ROLE rotated PASSWORD 'two'")
        vault.password = "two"
        for upstream in stage.pool.idle.copy():
            stage.pool.idle.remove(upstream)
            upstream.close(CloseReason.REPLACED)
        await stage.until(lambda: len(stage.pool.idle) == 2)
        assert vault.calls == 2
        assert stage.stats.upstream_connect_failures == 0
        assert stage.connector.credentials.current.password == "two"
        await stage.end()

    asyncio.run(work())


@pytest.mark.usefixtures("unread")
def test_secret_that_stays_wrong_is_not_fetched_all_the_time(server: EmbeddedServer, rotated: Upstream) -> None:
    async def work() -> None:
        stage = Stage(replace(rotated, aws_secret="shop", aws_region="eu-central-1"), server_login_retry=0.02)
        vault = stage.connector.credentials._aws = Vault("wrong")
        waiter = Waiter()
        stage.pool.lease(waiter, NO_SETTINGS, stage.loop.time())
        await stage.until(lambda: stage.stats.upstream_connect_failures >= 10)
        assert vault.calls == 2
        # It has never been right: whoever waits is told at once, and not why.
        assert [str(error) for error in waiter.errors] == ["the upstream refused SideCart's own login (SQLSTATE 28P01)"]
        assert waiter.errors[0].sqlstate == "08006"
        failed = next(fields for event, fields in stage.audit.events if event == "upstream login failed")
        assert 'password authentication failed for user "rotated"' in failed["cause"]
        await stage.end()

    asyncio.run(work())


# --- a server that moves ----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("unread")
def test_pool_moves_when_the_address_does(server: EmbeddedServer, rotated: Upstream) -> None:
    where = ["127.0.0.1"]

    async def resolve(host: str, port: int) -> list[Address]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 0, (address, port)) for address in where]

    async def work() -> None:
        stage = Stage(replace(rotated, password="one", dns_max_ttl=0.05), resolve)
        pool, closes = stage.pool, stage.stats.upstream_closes
        await stage.until(lambda: len(pool.idle) == 2)
        assert {upstream.backend.address for upstream in pool.idle} == {"127.0.0.1"}
        waiter = Waiter()
        held = pool.lease(waiter, NO_SETTINGS, stage.loop.time())
        assert held is not None
        where[:] = ["127.0.0.2"]
        await stage.until(lambda: [upstream.backend.address for upstream in pool.idle] == ["127.0.0.2"])
        assert closes["address_changed"] == 1
        # The one that works goes on until it is free, and a cancel goes where it is.
        assert held in pool.leased
        assert not held.closed  # type: ignore[attr-defined]
        pool.release(held, stage.loop.time())
        await stage.until(lambda: [upstream.backend.address for upstream in pool.idle] == ["127.0.0.2"] * 2)
        assert closes["address_changed"] == 2
        await stage.end()

    asyncio.run(work())


@pytest.mark.usefixtures("unread")
def test_cancel_goes_to_the_server_of_its_statement(server: EmbeddedServer, rotated: Upstream) -> None:
    where = ["127.0.0.1"]

    async def resolve(host: str, port: int) -> list[Address]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 0, (address, port)) for address in where]

    async def work() -> None:
        stage = Stage(replace(rotated, password="one"), resolve)
        await stage.until(lambda: len(stage.pool.idle) == 2)
        upstream: Any = stage.pool.idle[0]
        where[:] = ["192.0.2.1"]  # nobody's: a connection there would end in a timeout
        cancel = stage.connector.cancel
        assert await cancel(*upstream.backend.key, upstream.backend.address, with_tls=True) == "sent"
        await stage.end()

    asyncio.run(work())


# --- SIGHUP -----------------------------------------------------------------------------------------------------------


def hang_up(own: SideCart, log: Path) -> None:
    before = log.read_text().count('"reloaded"')
    own.process.send_signal(signal.SIGHUP)
    wait_until(lambda: log.exists() and log.read_text().count('"reloaded"') > before, 10, "the reload")


def test_log_goes_to_its_file_and_to_a_new_one_after_it_was_moved(rotated: Upstream, tmp_path: Path) -> None:
    log, old = tmp_path / "sidecart.log", tmp_path / "sidecart.log.1"
    log.write_text("what was there before\n")
    log.chmod(0o600)
    with SideCart(replace(rotated, password="one"), SIDECART_LOG_FILE=log) as own:
        with psycopg.connect(own.dsn) as client:
            client.execute("SELECT 1")
            wait_until(lambda: '"login"' in log.read_text(), 10, "the login in the log")
            log.rename(old)
            own.process.send_signal(signal.SIGHUP)
            wait_until(lambda: log.exists() and '"reloaded"' in log.read_text(), 10, "the new file")
            client.execute("SELECT 1")  # nobody was dropped
        own.stop()
        assert own.log == ""
    assert old.read_text().startswith("what was there before\n{")
    lines = [json.loads(line)["event"] for line in log.read_text().splitlines()]
    assert lines[0] == "log file opened again"
    assert lines[-1] == "stopped"
    assert log.stat().st_mode & 0o777 == 0o600


def test_sighup_names_what_it_does_not_reload(rotated: Upstream, tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("pool: {max_logins: 7}\nauth: {users_file: }\n")
    with SideCart(replace(rotated, password="one"), SIDECART_CONFIG=file) as own:

        def hang_up(*events: str) -> str:
            before = len(own.log)
            own.process.send_signal(signal.SIGHUP)
            for event in (*events, '"event":"reloaded"'):
                wait_until(lambda said=event: said in own.log[before:], 10, event)  # type: ignore[misc]
            return own.log[before:]

        assert "not reloaded" not in hang_up()
        secret = make_verifier("wonderland").text
        file.write_text(
            f"pool: {{max_logins: 8, default_pool_size: 10}}\nauth: {{users: {{alice: '{secret}'}}}}\n"
            "metrics: {sessions_key: the-environment-beats-it}\ndatabases: {reports: {host: replica}}\n"
        )
        keys = "auth.users, pool.max_logins, databases.reports"
        assert secret not in hang_up(f'"event":"configuration not reloaded","keys":"{keys}"')
        file.write_text(f"pool: {{max_login: '{secret}'}}\n")
        told = hang_up('"event":"the configuration is wrong now, the old goes on"')
        assert "line 1: pool.max_login: there is no such key" in told and secret not in told
        file.unlink()
        os.mkfifo(file)
        assert f"{file} is no regular file" in hang_up('"event":"the configuration is wrong now, the old goes on"')
        for state in ("active", "idle", "waiting", "judging", "login"):
            assert f'sidecart_clients{{state="{state}"}} 0.0' in own.get("/metrics")


def test_log_file_that_cannot_be_opened_ends_the_start(rotated: Upstream, tmp_path: Path) -> None:
    missing = tmp_path / "none" / "sidecart.log"
    with (
        pytest.raises(AssertionError, match=f"log.file '{missing}' cannot be opened: No such file or directory"),
        SideCart(replace(rotated, password="one"), SIDECART_LOG_FILE=missing),
    ):
        pass


@pytest.mark.parametrize("key", ["SIDECART_LOG_FILE", "SIDECART_AUTH_USERS_FILE", "SIDECART_LISTEN_TLS_CA_FILE"])
def test_attack_fifo_that_would_hold_the_start(rotated: Upstream, tmp_path: Path, key: str) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo, 0o600)
    with (
        pytest.raises(AssertionError, match=rf"file '{fifo}' (is no regular file|cannot be opened: No such device)"),
        SideCart(replace(rotated, password="one"), **{key: fifo}),
    ):
        pass


def test_attack_fifo_that_takes_the_place_of_a_file_holds_nobody(rotated: Upstream, tmp_path: Path) -> None:
    """It froze the event loop as auth.users_file, and the end of the process as log.file or password_file."""
    log, users, password = (tmp_path / name for name in ("sidecart.log", "users.txt", "password"))
    password.write_text("one")
    users.write_text("")
    for path in (password, users):
        path.chmod(0o600)
    keys = {"SIDECART_LOG_FILE": log, "SIDECART_AUTH_USERS_FILE": users, "SIDECART_POOL_QUERY_WAIT_TIMEOUT": "2s"}
    with SideCart(replace(rotated, password="", password_file=str(password)), **keys) as own:
        with psycopg.connect(own.dsn) as kept:
            kept.execute("SELECT 1")
            moved = log.rename(tmp_path / "moved.log")
            for path in (users, password):
                path.unlink()
            for path in (log, users, password):
                os.mkfifo(path, 0o600)
            own.process.send_signal(signal.SIGHUP)
            for event in ("auth.users_file not reloaded, the old goes on", "log file not opened again"):
                wait_until(lambda said=event: said in moved.read_text(), 10, event)  # type: ignore[misc]
            assert kept.execute("SELECT 1").fetchone() == (1,)
        assert own.stop() == 0
    assert '"event":"stopped"' in moved.read_text().splitlines()[-1]


@pytest.mark.parametrize("key", ["SIDECART_AUTH_USERS_FILE", "SIDECART_LOG_FILE", "SIDECART_UPSTREAM_PASSWORD_FILE"])
def test_attack_file_that_everybody_may_write(rotated: Upstream, tmp_path: Path, key: str) -> None:
    file = tmp_path / "file"
    file.write_text("")
    file.chmod(0o666)
    if key != "SIDECART_UPSTREAM_PASSWORD_FILE":
        with (
            pytest.raises(AssertionError, match="its permissions are 0666"),
            SideCart(replace(rotated, password="one"), **{key: file}),
        ):
            pass
        return
    file.write_text("one")
    with SideCart(replace(rotated, password=""), SIDECART_POOL_QUERY_WAIT_TIMEOUT="1s", **{key: file}) as own:

        def refused() -> str:
            try:
                psycopg.connect(own.dsn).close()
            except psycopg.OperationalError as error:
                return str(error)
            return ""

        assert "could not get the password of its role" in refused()
        wait_until(lambda: "its permissions are 0666" in own.log, 10, "the log")
        file.chmod(0o600)
        wait_until(lambda: not refused(), 30, "a login; the pause before the next one may outlast a client's patience")


def test_reload_reads_the_cas_again_and_keeps_them_where_it_cannot(
    server: EmbeddedServer, rotated: Upstream, tmp_path: Path
) -> None:
    root, log = tmp_path / "root.pem", tmp_path / "sidecart.log"
    trustme.CA().cert_pem.write_to_path(str(root))
    keys = {"SIDECART_LOG_FILE": log, "SIDECART_POOL_QUERY_WAIT_TIMEOUT": "20s"}
    with SideCart(replace(rotated, password="one", sslrootcert=str(root)), **keys) as own:
        wait_until(lambda: "certificate was not accepted" in log.read_text(), 10, "a failed login")
        os.replace(_copy(server.ca_file, tmp_path), root)
        hang_up(own, log)
        with psycopg.connect(own.dsn, autocommit=True) as client:
            client.execute("SELECT 1")
            root.write_text("no certificate")
            hang_up(own, log)
            assert '"reload failed"' in log.read_text()
            terminate(server)
            client.execute("SELECT 1")


def _copy(path: Path, folder: Path) -> Path:
    copy = folder / "copy.pem"
    copy.write_bytes(path.read_bytes())
    return copy


def test_every_file_that_is_said_to_be_read_again_is_read_on_sighup(
    server: EmbeddedServer, rotated: Upstream, tmp_path: Path
) -> None:
    """Each is replaced by one that cannot be used: whoever reads it says so, and names the key."""
    ca = trustme.CA()
    made = ca.issue_cert("localhost")
    certificate, key = made.cert_chain_pems[0].bytes(), made.private_key_pem.bytes()
    contents = {
        "listen.tls_cert_file": certificate,
        "listen.tls_key_file": key,
        "listen.tls_ca_file": ca.cert_pem.bytes(),
        "listen.tls_crl_file": revoked(ca),
        "auth.users_file": b"",
        "upstream.sslrootcert": server.ca_file.read_bytes(),
        "upstream.sslcert": certificate,
        "upstream.sslkey": key,
        "log.file": b"",
    }
    assert contents.keys() == {
        f"{section}.{item.name}"
        for section, kind in SECTIONS.items()
        for item in fields(kind)
        if key_of(item).again in (Again.CHANGE, Again.SIGHUP)
    }
    paths = {key: tmp_path / key for key in contents}
    for name, path in paths.items():
        path.write_bytes(contents[name])
        path.chmod(0o600)
    log = paths["log.file"]
    upstream = replace(rotated, password="one", sslrootcert=str(paths["upstream.sslrootcert"]))
    variables = {variable(*name.split(".")): path for name, path in paths.items() if name != "upstream.sslrootcert"}
    with SideCart(upstream, **variables) as own:
        for name, path in paths.items():
            if path is log:
                continue
            path.write_bytes(b"\xff")
            hang_up(own, log)
            wait_until(lambda said=name: f"{said} " in log.read_text(), 10, name)  # type: ignore[misc]
            path.write_bytes(contents[name])
        moved = log.rename(tmp_path / "moved.log")
        os.mkfifo(log)
        own.process.send_signal(signal.SIGHUP)
        wait_until(lambda: "log file not opened again" in moved.read_text(), 10, "log.file")
