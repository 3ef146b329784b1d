"""Look at the SideCart that runs on this machine, as a client and as Prometheus would: its port, and its pages."""

from __future__ import annotations

import http.client
import os
import socket
from collections.abc import Collection, Mapping

from proxy.config.schema import Config, Upstream
from proxy.databases import diagnosis
from proxy.errors import UpstreamError
from proxy.operating import catalogue
from proxy.operating.asking import PATIENCE, NoAnswerError, fetch, here, judge
from proxy.preflight import pieces, reaching
from proxy.preflight.pieces import NOT_DEPLOYED, Fine, SkippedError, Step, TroubleError

USER = "sidecart_preflight"
"""What SideCart's log and pg_stat_activity call the client, unless it is told another name."""


class OwnDoors:
    """Hold whether SideCart is there: without it, it has no pages either."""

    def __init__(
        self, config: Config, databases: Collection[str], user: str = USER, environ: Mapping[str, str] = os.environ
    ) -> None:
        self._config = config
        self._databases = databases
        self._user = user
        self._password = environ.get("PGPASSWORD", "")
        self._listens: bool | None = None

    def steps(self) -> list[Step]:
        return [
            Step(pieces.SIDECART, (pieces.CONFIGURATION,), self.sidecart),
            Step(pieces.METRICS, (pieces.CONFIGURATION,), self.metrics),
        ]

    async def sidecart(self) -> Fine:
        host, port = here(self._config.listen.host), self._config.listen.port
        seconds = self._config.upstream.connect_timeout
        if not port:
            raise SkippedError("listen.port is 0, so nobody knows which port to try")
        where = f"{host} port {port}"
        try:
            addresses = await reaching.resolve(host, port, seconds)
            (await reaching.connect(addresses[0], seconds)).close()
        except ConnectionRefusedError:
            self._listens = False
            raise SkippedError(f"{NOT_DEPLOYED}: nothing listens on {where}") from None
        except socket.gaierror as error:
            raise TroubleError(diagnosis.unresolved(host, error.strerror or "", try_again=False)) from error
        except OSError as error:  # TimeoutError is one
            raise TroubleError(diagnosis.unreachable(host, port, error, host, seconds)) from error
        self._listens = True
        if self._config.listen.tls == "verify":
            raise SkippedError(f"{where} answers, and wants a certificate of its clients (listen.tls is verify)")
        if not self._databases:
            raise SkippedError("upstream.dbname is empty, so that clients choose the database: name one with --dbname")
        for name in self._databases:
            await self._serve(name, host, port, seconds)
        return Fine(f"a client logs in on {where}, and {', '.join(self._databases)} answers SELECT 1")

    async def _serve(self, name: str, host: str, port: int, seconds: float) -> None:
        # It is this machine's own, so its certificate proves nothing that the address does not.
        own = Upstream(
            host=host,
            port=port,
            dbname=name,
            user=self._user,
            password=self._password,
            sslmode="prefer",
            connect_timeout=seconds,
        )
        try:
            async with catalogue.visiting(own) as connector:
                rows = await connector.fetch_once(name, b"SELECT 1")
        except UpstreamError as error:
            where = f"{host} port {port} (database {name})"
            raise TroubleError(diagnosis.not_served(error.for_operator, where)) from error
        if rows != [[[b"1"]]]:
            raise TroubleError(diagnosis.not_served("another answer came", f"{host} port {port}"))

    async def metrics(self) -> Fine:
        where = f"{here(self._config.metrics.host)} port {self._config.metrics.port}"
        try:
            status, page = await reaching.within(2 * PATIENCE, lambda: fetch(self._config, "/readyz"))
            well, why = judge(status, page)
            if not well:
                raise TroubleError(diagnosis.not_ready(why))
            status, page = await reaching.within(2 * PATIENCE, lambda: fetch(self._config, "/metrics"))
        except NoAnswerError as error:
            if not error.asked:
                raise SkippedError(str(error).rstrip(".")) from error
            if error.refused and not self._listens:
                raise SkippedError(f"{NOT_DEPLOYED}: nothing listens on {where}") from error
            raise TroubleError(diagnosis.no_page(str(error))) from error
        if status != http.client.OK or b"sidecart_" not in page:
            raise TroubleError(diagnosis.wrong_page("/metrics", status))
        if self._listens is False:
            listen = self._config.listen
            raise TroubleError(diagnosis.stray(self._config.metrics.port, here(listen.host), listen.port))
        return Fine(f"/readyz says ok, and /metrics has {page.count(b'# TYPE sidecart_')} metrics, on {where}")
