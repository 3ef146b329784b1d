"""Look at each piece between this machine and one database of the upstream, from its secret to its role."""

from __future__ import annotations

import asyncio
import datetime
import socket
import ssl
import time
from dataclasses import replace
from typing import Final

from proxy.config.schema import PASSWORD_SOURCES, Upstream
from proxy.databases import diagnosis, poolers
from proxy.databases.credentials import Credentials, Secret
from proxy.databases.poolers import Pooling
from proxy.errors import UpstreamError
from proxy.operating import catalogue, examining
from proxy.operating.examining import ExaminationError
from proxy.preflight import pieces, reaching
from proxy.preflight.pieces import Fine, SkippedError, Step, TroubleError
from proxy.preflight.reaching import Address, NoTlsError
from proxy.role.findings import Severity
from proxy.sql.policy import Policy
from proxy.stats import Stats
from proxy.tasks import Tasks
from proxy.tls import certificates
from proxy.tls.contexts import ALPN

_VERSION: Final = (
    b"SELECT pg_catalog.current_setting('server_version_num'), pg_catalog.current_setting('server_version')"
)
_TRY_AGAIN: Final = frozenset({socket.EAI_AGAIN})


class Inspection:
    """Hold what the earlier steps have found for the later ones."""

    def __init__(self, upstream: Upstream, policy: Policy) -> None:
        self._upstream = upstream
        self._policy = policy
        self._seconds = upstream.connect_timeout
        self._local = upstream.host.startswith("/")
        self._secret = Secret(upstream.user, "")
        self._addresses: list[Address] = []
        self._reached: Address | None = None
        self._encrypted = False
        self._version = (0, "")

    def steps(self) -> list[Step]:
        p = pieces
        return [
            Step(p.SECRET, (p.CONFIGURATION,), self.secret),
            Step(p.IAM_TOKEN, (p.CONFIGURATION,), self.iam_token),
            Step(p.DNS, (p.CONFIGURATION,), self.dns),
            Step(p.ROUTE, (p.DNS,), self.route),
            Step(p.TLS, (p.ROUTE,), self.tls),
            Step(p.LOGIN, (p.TLS, p.SECRET, p.IAM_TOKEN), self.login),
            Step(p.POOLER, (p.LOGIN,), self.pooler),
            Step(p.VERSION, (p.LOGIN,), self.version),
            Step(p.ROLE, (p.VERSION,), self.role),
        ]

    # --- what proves who we are -----------------------------------------------------------------------------------

    async def secret(self) -> Fine:
        upstream = self._upstream
        if upstream.aws_iam:
            raise SkippedError("upstream.aws_iam takes its place")
        source = next((key for key in PASSWORD_SOURCES if getattr(upstream, key)), "")
        if not source:
            return Fine("none is configured: the server must ask for none")
        await self._fetch(source)
        return Fine(f"upstream.{source} is readable", diagnosis.password_notes(self._secret.password))

    async def iam_token(self) -> Fine:
        if not self._upstream.aws_iam:
            raise SkippedError("upstream.aws_iam is false")
        await self._fetch("aws_iam")
        return Fine(f"a token for {self._upstream.user}, good for 15 minutes")

    async def _fetch(self, source: str) -> None:
        tasks = Tasks()
        credentials = Credentials(self._upstream, Stats(), tasks, time.monotonic)
        credentials.check()
        try:
            self._secret = await credentials.get()
        except UpstreamError as error:
            raise TroubleError(diagnosis.secret(source, error.cause or str(error))) from error
        finally:
            await tasks.stop()

    # --- the way ----------------------------------------------------------------------------------------------------

    async def dns(self) -> Fine:
        host, port = self._upstream.host, self._upstream.port
        if self._local:
            self._addresses = [(socket.AF_UNIX, socket.SOCK_STREAM, 0, f"{host}/.s.PGSQL.{port}")]
            raise SkippedError("the upstream is a Unix socket")
        try:
            self._addresses = await reaching.resolve(host, port, self._seconds)
        except socket.gaierror as error:
            again = error.errno in _TRY_AGAIN
            raise TroubleError(diagnosis.unresolved(host, error.strerror or "", try_again=again)) from error
        except TimeoutError as error:
            why = f"no answer within {self._seconds:g} s"
            raise TroubleError(diagnosis.unresolved(host, why, try_again=True)) from error
        except (OSError, UnicodeError) as error:  # a label that is empty or too long for IDNA
            raise TroubleError(diagnosis.unresolved(host, "it is no host name", try_again=False)) from error
        return Fine(f"{host} is {', '.join(map(_shown, self._addresses))}")

    async def route(self) -> Fine:
        port = self._upstream.port
        began = time.monotonic()
        tries = [reaching.connect(address, self._seconds) for address in self._addresses]
        outcomes = await asyncio.gather(*tries, return_exceptions=True)
        milliseconds = (time.monotonic() - began) * 1000
        failures = []
        for address, outcome in zip(self._addresses, outcomes, strict=True):
            if isinstance(outcome, socket.socket):
                outcome.close()
                self._reached = self._reached or address
            elif isinstance(outcome, OSError):  # TimeoutError is one
                failures.append(
                    diagnosis.unreachable(_shown(address), port, outcome, self._upstream.host, self._seconds)
                )
            else:
                raise outcome
        if self._reached is None:
            raise TroubleError(failures[0])
        where = _shown(self._reached) if self._local else f"{_shown(self._reached)} port {port}"
        return Fine(f"{where} answers within {max(1, round(milliseconds))} ms", [each.means for each in failures])

    # --- TLS ----------------------------------------------------------------------------------------------------------

    async def tls(self) -> Fine:
        upstream = self._upstream
        context = reaching.context(upstream)
        if self._local:
            raise SkippedError("the upstream is a Unix socket")
        if context is None:
            raise SkippedError("turned off: upstream.sslmode is disable")
        address = self._reached
        if address is None:
            raise SkippedError("there is no route")
        direct = upstream.sslnegotiation == "direct"
        try:
            shaken = await reaching.shake_hands(address, context, upstream.host, self._seconds, direct=direct)
        except NoTlsError as refusal:
            if refusal.answer in (b"N", b"E") and upstream.sslmode in ("allow", "prefer"):
                return Fine(f"not used: the server has none, and upstream.sslmode is {upstream.sslmode}")
            raise TroubleError(self._without_tls(refusal.answer)) from refusal
        except ssl.SSLCertVerificationError as error:
            raise TroubleError(await self._explain(error, address, context, direct=direct)) from error
        except OSError as error:
            raise TroubleError(self._no_handshake(error, direct=direct)) from error
        if direct and shaken.protocol != ALPN:
            raise TroubleError(diagnosis.handshake("no protocol was agreed on", direct=True))
        self._encrypted = upstream.sslmode != "allow"
        return self._shaken(shaken)

    def _without_tls(self, answer: bytes) -> diagnosis.Advice:
        """Say what an answer other than yes to SSLRequest means."""
        if answer in (b"N", b"E"):
            return diagnosis.no_tls(self._upstream.sslmode)
        return diagnosis.not_postgres(answer, self._upstream.port)

    def _no_handshake(self, error: OSError, *, direct: bool) -> diagnosis.Advice:
        """Say what an error of a handshake means, other than one of the certificate."""
        port = self._upstream.port
        if isinstance(error, TimeoutError):
            return diagnosis.silent(port, self._seconds)
        if isinstance(error, ssl.SSLError):
            return diagnosis.handshake(str(error.reason or error), direct=direct)
        if direct:
            return diagnosis.handshake("the connection was closed", direct=True)
        return diagnosis.not_postgres(b"", port)

    def _shaken(self, shaken: reaching.Shaken) -> Fine:
        upstream = self._upstream
        found = certificates.read(shaken.certificate)
        now = datetime.datetime.now(datetime.UTC)
        verified = {"verify-full": "verified", "verify-ca": "of a known CA"}.get(upstream.sslmode)
        verified = verified or ("of a known CA" if upstream.sslrootcert else "not verified")
        parts = [shaken.version]
        if found is not None:
            names = ", ".join(found.names)
            parts.append(f"certificate for {names}, {verified}; it ends in {found.days_left(now)} days")
        return Fine(", ".join(parts), diagnosis.certificate_notes(found, upstream, now))

    async def _explain(
        self, error: ssl.SSLCertVerificationError, address: Address, context: ssl.SSLContext, *, direct: bool
    ) -> diagnosis.Advice:
        """Fetch the certificate once more, unverified, to say what is wrong with it."""
        upstream = self._upstream
        shown = await reaching.certificate(address, upstream.host, self._seconds, direct=direct)
        return diagnosis.refused_certificate(
            error.verify_code,
            error.verify_message,
            certificates.read(shown),
            upstream,
            reaching.authorities(context),
            datetime.datetime.now(datetime.UTC),
        )

    # --- the database -------------------------------------------------------------------------------------------------

    async def login(self) -> Fine:
        upstream = self._upstream
        if not upstream.dbname:
            raise SkippedError("upstream.dbname is empty, so that clients choose the database: name one with --dbname")
        began = time.monotonic()
        try:
            async with catalogue.visiting(upstream) as connector:
                (((number, text),),) = await connector.fetch_once(upstream.dbname, _VERSION)
        except UpstreamError as error:
            whose = replace(upstream, user=self._secret.user)
            password = self._secret.password
            advice = diagnosis.login(error.sqlstate, error.for_operator, whose, password, encrypted=self._encrypted)
            raise TroubleError(advice) from error
        milliseconds = (time.monotonic() - began) * 1000
        self._version = int(number or b"0"), (text or b"").decode("utf-8", "replace")
        return Fine(f"{self._secret.user} logs in to {upstream.dbname} within {max(1, round(milliseconds))} ms")

    async def pooler(self) -> Fine:
        if not self._version[0]:
            raise SkippedError("nobody has logged in")
        upstream = self._upstream
        try:
            async with catalogue.visiting(upstream) as connector:
                first = await connector.reader(upstream.dbname)
                first.close()
                if not first.upstream.backend.pooled:
                    return Fine("none: the server itself answers")
                found = await poolers.look(lambda: connector.reader(upstream.dbname))
        except UpstreamError as error:
            raise TroubleError(diagnosis.unwatched(error.for_operator)) from error
        if found is Pooling.SESSION:
            return Fine("one that keeps a session of the server's for each connection")
        if found is None:
            raise TroubleError(diagnosis.unwatched("they change hands too fast to tell"))
        if not upstream.allow_shared_sessions:
            raise TroubleError(diagnosis.shared_sessions())
        return Fine("one that shares sessions, as upstream.allow_shared_sessions allows", [diagnosis.SHARING])

    async def version(self) -> Fine:
        number, text = self._version
        if not number:
            raise SkippedError("nobody has logged in")
        advice = diagnosis.version(number, text)
        if advice is not None:
            raise TroubleError(advice)
        return Fine(f"PostgreSQL {text}", diagnosis.version_notes(number))

    async def role(self) -> Fine:
        if not self._version[0]:
            raise SkippedError("nobody has logged in")
        try:
            found = (await examining.examine(self._upstream, self._policy)).findings
        except ExaminationError as error:
            raise TroubleError(diagnosis.unexamined(str(error))) from error
        by_severity = {severity: [each for each in found if each.severity is severity] for severity in Severity}
        user, worst = self._upstream.user, by_severity[Severity.CRITICAL]
        if worst:
            raise TroubleError(diagnosis.writes(user, [each.subject for each in worst], worst[0].why))
        notes = [f"{each.subject}: {each.why}" for each in by_severity[Severity.WARNING]]
        return Fine(f"{user} can write nothing", notes)


def _shown(address: Address) -> str:
    place = address[3]
    return place if isinstance(place, str) else str(place[0])
