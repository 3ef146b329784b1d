"""Turn what went wrong on the way to the upstream into what it means and what to do: for `sidecart preflight`.

Pure: kinds of errors, texts and facts come in, `Advice` goes out. docs/preflight.md has the same as a table. What is
known of a password is said by its kind alone; no part of it is ever in a text.
"""

from __future__ import annotations

import datetime
import ipaddress
import re
from collections.abc import Iterable, Sequence, Set
from typing import Final, NamedTuple

from proxy.config.schema import Upstream
from proxy.pooling.guard import LOST, UNSUPPORTED
from proxy.role.findings import OLDEST
from proxy.sql.text import GRAMMAR
from proxy.tls import certificates
from proxy.tls.certificates import Authority, Certificate

ENDS_SOON: Final = 30
"""Days before the end of a certificate from which on it is worth a note."""
BUNDLE: Final = "https://truststore.pki.rds.amazonaws.com/global/global-bundle.pem"

# OpenSSL's numbers for why a certificate is refused (x509_vfy.h, X509_V_ERR_*): verify_code of Python's exception.
NOT_YET_VALID: Final = 9
EXPIRED: Final = 10
WRONG_NAME: Final = frozenset({62, 64})


class Advice(NamedTuple):
    """What an error means, and what to do about it: one sentence, or two, each."""

    means: str
    fix: str


# --- configuration ----------------------------------------------------------------------------------------------------


def configuration(problems: str) -> Advice:
    """Explain why a configuration is refused; its own text says where and what, a line for each problem."""
    if "a host name or an IP address alone" in problems:
        fix = (
            "Give DB_HOST the host name alone, such as db.example.com; port, database and user have names of their own."
        )
    elif "There is no configuration" in problems:
        fix = "Name the file with -c config.yaml, or set the variables that are named."
    else:
        fix = "Correct what is named; config.yaml of the project has every key with its default."
    return Advice("; ".join(problems.splitlines()), fix)


# --- password ---------------------------------------------------------------------------------------------------------

_URL_SAFE: Final = re.compile(r"[A-Za-z0-9._~-]*")
_PERCENT: Final = re.compile(r"%[0-9A-Fa-f]{2}")


def suspicions(password: str) -> list[str]:
    """Return what is odd about a password that a server refuses, each as the end of "The password …"."""
    found = []
    if password != password.strip():
        end = password.rstrip("\r\n") != password
        found.append(
            "ends with a line break: write the file with printf, not with echo"
            if end
            else "begins or ends with a blank: is that part of it?"
        )
    if len(password) > 1 and password[0] == password[-1] and password[0] in "'\"":
        found.append("stands in quotes, and they are taken as part of it: an env file of Docker wants none")
    if _PERCENT.search(password):
        found.append("looks percent-encoded, as in a URL: set the decoded one")
    if password.startswith(("postgres://", "postgresql://")):
        found.append("is a whole URL: set the password alone")
    return found


def password_notes(password: str) -> list[str]:
    """Return what is good to know about a password before it is used anywhere else. Nothing of it is shown."""
    notes = [f"The password {odd}." for odd in suspicions(password)]
    if not _URL_SAFE.fullmatch(password):
        notes.append(
            "The password has characters that a URL must escape. Here it stands as it is; in a connection URL all but"
            " letters, digits and - . _ ~ has to be percent-encoded."
        )
    return notes


def secret(source: str, why: str) -> Advice:
    """Explain why a password could not be fetched; `source` is the key that says where it comes from."""
    action = "rds-db:connect" if source == "aws_iam" else "secretsmanager:GetSecretValue (and kms:Decrypt)"
    fixes = (
        ("AccessDenied", f"Allow {action} to the role that SideCart runs with."),
        (
            "ResourceNotFound",
            "Correct upstream.aws_secret: a name is looked for in one region, which an ARN has in it.",
        ),
        ("credentials", "Give the process credentials of AWS: a task role, an instance profile, or AWS_PROFILE."),
        ("region", "Set upstream.aws_region."),
        ("boto3", "Install it: pip install 'sidecart[aws]'."),
        ("endpoint", "Open the way to the service: a NAT gateway, or a VPC endpoint for secretsmanager."),
        ("No such file", f"Correct upstream.{source}, or mount the secret there."),
        ("Permission denied", "Let the user that SideCart runs as read it."),
        ("is empty", "Put the password into it, and nothing else."),
        (
            "must belong",
            "Give it to the user that SideCart runs as, and chmod it to 0600; for a group, to root and 0640.",
        ),
        ("no regular file", "Put the password into a file: a pipe or a device would hold whoever opens it."),
        ("gave none within", "See what keeps it from answering: a disk that is gone, or a name server."),
    )
    fix = next((fix for word, fix in fixes if word in why), f"Correct upstream.{source}.")
    return Advice(_sentence(f"upstream.{why}" if source and why.startswith(source) else why), fix)


# --- name and route ---------------------------------------------------------------------------------------------------


def unresolved(host: str, why: str, *, try_again: bool) -> Advice:
    """Explain why a host name has no address; `try_again` says that the name server itself did not answer."""
    if try_again:
        return Advice(
            f"No name server has answered for {host} ({why}).",
            "See /etc/resolv.conf and the way to the name server (port 53); in a VPC, that DNS resolution is enabled.",
        )
    fix = "Correct DB_HOST: take the name from the console of your provider, without port and path."
    if _is_rds(host):
        fix = (
            "Correct DB_HOST: take the endpoint as the RDS console shows it; that of a deleted instance has no address."
        )
    return Advice(f"The host name {host} is not known ({why}).", fix)


def unreachable(address: str, port: int, error: OSError, host: str, seconds: float) -> Advice:
    """Explain why no TCP connection comes about."""
    where = f"{address} port {port}"
    if isinstance(error, TimeoutError):
        private = (
            " and from inside the VPC, or over its VPN or peering: the address is a private one"
            if _is_private(address)
            else ""
        )
        group = (
            "the database's security group must accept SideCart's group"
            if _is_rds(host)
            else ("a firewall, or the security group of the database, must accept this machine")
        )
        return Advice(
            f"{where} does not answer within {seconds:g} s: packets are dropped on the way.",
            f"Open the route: {group} on port {port}{private}.",
        )
    if isinstance(error, ConnectionRefusedError):
        return Advice(
            f"{where} refuses the connection: the machine is there, and nothing listens on that port.",
            "Correct DB_PORT (PostgreSQL's own is 5432), or start the server; it must listen on this address"
            " (listen_addresses).",
        )
    if isinstance(error, FileNotFoundError):
        return Advice(
            f"There is no socket {address}.",
            "Correct DB_HOST, the folder of the socket, and DB_PORT, the end of its name.",
        )
    return Advice(
        f"{where} cannot be reached: {error.strerror or type(error).__name__}.",
        "See the routes of this machine (ip route get), its VPN, and the route table of its subnet.",
    )


# --- TLS --------------------------------------------------------------------------------------------------------------


def no_tls(sslmode: str) -> Advice:
    """Explain that the server answers SSLRequest with no."""
    return Advice(
        f"The server does not speak TLS, and upstream.sslmode is {sslmode}.",
        "Turn TLS on at the server (ssl = on, with a certificate). DB_SSLMODE=disable is for a server on this machine.",
    )


def not_postgres(answer: bytes, port: int) -> Advice:
    """Explain an answer to SSLRequest that no PostgreSQL gives; an empty one is a connection that was closed."""
    if answer:
        return Advice(
            f"What answers on port {port} is no PostgreSQL server.",
            "Correct DB_HOST and DB_PORT.",
        )
    return Advice(
        f"What answers on port {port} closes the connection before TLS begins.",
        "Correct DB_PORT; with a load balancer in between, see that it has a healthy target.",
    )


def silent(port: int, seconds: float) -> Advice:
    """Explain a connection that is taken, and then nothing comes."""
    return Advice(
        f"The connection is taken, but no answer comes within {seconds:g} s.",
        f"See what listens on port {port}: another kind of server, a load balancer without a target, or an overloaded"
        " server. DB_CONNECT_TIMEOUT sets the limit.",
    )


def handshake(reason: str, *, direct: bool) -> Advice:
    """Explain a TLS handshake that failed for another reason than the server's certificate."""
    if direct:
        fix = "upstream.sslnegotiation direct needs PostgreSQL 17 or later: set it to postgres."
    elif "CERTIFICATE_REQUIRED" in reason:
        fix = "The server asks for a certificate of the role's: set upstream.sslcert and upstream.sslkey."
    elif "ALERT" in reason and ("CERT" in reason or "UNKNOWN_CA" in reason):
        fix = (
            "The server does not accept the certificate in upstream.sslcert: its ssl_ca_file must have the CA of that."
        )
    elif "VERSION" in reason or "PROTOCOL" in reason:
        fix = "SideCart speaks TLS 1.2 and later: raise ssl_min_protocol_version at the server, or correct DB_PORT."
    else:
        fix = "See the server's log; a middlebox that opens TLS on the way can be the cause, too."
    return Advice(f"TLS with the server failed ({_clean(reason)}).", fix)


def refused_certificate(
    code: int,
    says: str,
    certificate: Certificate | None,
    upstream: Upstream,
    trusted: Sequence[Authority],
    now: datetime.datetime,
) -> Advice:
    """Explain why the server's certificate was refused: by OpenSSL's number, and by what the certificate says."""
    if certificate is None:
        return Advice(
            f"The server's certificate was not accepted ({_clean(says)}).",
            "Look at it: openssl s_client -starttls postgres -connect HOST:PORT.",
        )
    if certificate.ends < now:
        fix = "Renew it at the server."
        if certificates.region(certificate.issuer):
            fix = "Renew it: aws rds modify-db-instance --ca-certificate-identifier rds-ca-rsa2048-g1."
        return Advice(f"The server's certificate has expired on {_day(certificate.ends)}.", fix)
    if code == NOT_YET_VALID or certificate.starts > now:
        return Advice(
            f"The server's certificate is valid from {_day(certificate.starts)} on, and here it is {_day(now)}.",
            "Set the clock of this machine, or of the one that made the certificate.",
        )
    if code in WRONG_NAME:
        return _wrong_name(certificate, upstream.host)
    region, regions = certificates.region(certificate.issuer), _regions(trusted)
    if region and region not in regions:
        return _other_region(region, regions, upstream.sslrootcert)
    return _not_trusted(code, certificate, upstream, trusted, now)


_OUR_ROOTS = "the CAs of this system and of Amazon RDS"


def _other_region(region: str, regions: Set[str], roots: str) -> Advice:
    has = (
        f"{roots} has the CA of {', '.join(sorted(regions))}"
        if regions and roots
        else f"{roots or _OUR_ROOTS} {'has' if roots else 'have'} none of that region"
    )
    fix = f"Take the bundle of all regions: {BUNDLE}, and name it in DB_SSLROOTCERT."
    if roots:
        fix = f"Leave DB_SSLROOTCERT empty, for the CAs of RDS come with SideCart, or take {BUNDLE}."
    return Advice(f"The server's certificate is of the CA of {region}; {has}.", fix)


def _not_trusted(
    code: int, certificate: Certificate, upstream: Upstream, trusted: Sequence[Authority], now: datetime.datetime
) -> Advice:
    """Say who has signed a certificate that nobody trusted has."""
    over = [each for each in trusted if each.ends < now and each.name == certificate.issuer]
    if code == EXPIRED:
        when = f" on {_day(over[0].ends)}" if over else ""
        return Advice(
            f"The CA {certificate.issuer}, which signed the server's certificate, or one above it, has expired{when}.",
            "Replace the CA in DB_SSLROOTCERT by its successor, and the server's certificate by one of that; for RDS"
            f" take {BUNDLE}.",
        )
    if certificate.self_signed:
        return Advice(
            f"The server's certificate is self-signed ({certificate.subject}): nobody vouches for it.",
            "Copy it from the server by a way that you trust, and name that file in DB_SSLROOTCERT; or give the server"
            " one of a CA.",
        )
    same = " (there is another CA of that name)" if any(each.name == certificate.issuer for each in trusted) else ""
    roots = upstream.sslrootcert or _OUR_ROOTS
    return Advice(
        f"The server's certificate was signed by {certificate.issuer}, which is not in {roots}{same}.",
        "Name the PEM file of that CA in DB_SSLROOTCERT, if it is the one that your server should have.",
    )


def _wrong_name(certificate: Certificate, host: str) -> Advice:
    names = ", ".join(certificate.names) or "none"
    fix = "Set DB_HOST to one of them; an alias of your own (CNAME) has to be in the certificate."
    if _is_address(host):
        fix = "Set DB_HOST to the name, not to an address."
    return Advice(f"The server's certificate is for {names}, and not for {host}.", fix)


def _regions(trusted: Iterable[Authority]) -> set[str]:
    return {region for each in trusted if (region := certificates.region(each.name))}


def certificate_notes(certificate: Certificate | None, upstream: Upstream, now: datetime.datetime) -> list[str]:
    """Return what is good to know about a connection that has TLS."""
    notes = []
    if certificate is not None and certificate.days_left(now) < ENDS_SOON:
        notes.append(f"Renew the server's certificate before {_day(certificate.ends)}.")
    if upstream.sslmode != "verify-full":
        what = "name is" if upstream.sslmode == "verify-ca" or upstream.sslrootcert else "identity is"
        notes.append(f"upstream.sslmode is {upstream.sslmode}: the server's {what} not checked; use verify-full.")
    return notes


# --- login ------------------------------------------------------------------------------------------------------------

SHARED: Final = (
    "in pgbouncer.ini set pool_mode = session and server_reset_query = DISCARD ALL, or connect SideCart to PostgreSQL"
    " itself; upstream.allow_shared_sessions: true serves all the same"
)
"""What to do where a pooler shares the server's sessions among its clients."""
SHARING: Final = (
    "What one client of the pooler sets (search_path, read-only or not) holds for another's statements: let nobody but"
    " SideCart use this pool."
)
"""What is good to know where that is allowed."""
MORE: Final = "the pooler has to take pool.default_pool_size connections, and four more"
"""What to do where it takes too few to be looked at."""
_SQLSTATE: Final = re.compile(r"\(SQLSTATE (\w{5})\)")


def login(sqlstate: str, text: str, upstream: Upstream, password: str, *, encrypted: bool) -> Advice:
    """Explain a login that failed: `text` is SideCart's own sentence for it, with the words of the server."""
    found = _SQLSTATE.search(text)
    code = found[1] if found else sqlstate
    user, dbname, host = upstream.user, upstream.dbname, upstream.host
    if code in ("28000", "28P01"):
        return _not_let_in(code, text, upstream, password, encrypted=encrypted)
    if code == "3D000":
        return Advice(
            f"The database {dbname} does not exist on {host}.",
            "Correct DB_NAME: psql -l lists the databases. The identifier of an RDS instance is not one.",
        )
    if code == "42501":
        return Advice(
            f"The role {user} may not connect to the database {dbname}.",
            f"GRANT CONNECT ON DATABASE {_quoted(dbname)} TO {_quoted(user)}.",
        )
    if code == "53300":
        return Advice(
            _sentence(text),
            "Wait, or raise max_connections or the role's CONNECTION LIMIT above pool.default_pool_size.",
        )
    if code == "57P03":
        return Advice(_sentence(text), "Wait until the server has started, and try again.")
    return _login_without_code(text, upstream)


def _not_let_in(code: str, text: str, upstream: Upstream, password: str, *, encrypted: bool) -> Advice:
    """Explain why the server does not believe, or does not want, who logs in."""
    user = upstream.user
    if (code == "28000" and "PAM" in text) or (code == "28P01" and upstream.aws_iam):
        return Advice(
            f"The server does not accept the IAM token of {user}.",
            f"GRANT rds_iam TO {_quoted(user)}; enable IAM authentication on the instance; allow rds-db:connect on"
            f" dbuser:RESOURCE-ID/{user} to the role that SideCart runs with; see that the clock is right.",
        )
    if code == "28P01":
        odd = "".join(f" The password {each}." for each in suspicions(password))
        return Advice(
            f"The server does not accept the password, or has no role {user}.{odd}",
            "Set the password that the role has now. The usual causes: the secret was rotated; it was copied from a URL"
            " and is still percent-encoded; a line break came along with it.",
        )
    if "no pg_hba.conf entry" in text:
        return _no_entry(upstream, encrypted=encrypted)
    if "not permitted to log in" in text:
        return Advice(f"The role {user} may not log in.", f"ALTER ROLE {_quoted(user)} LOGIN.")
    return Advice(_sentence(text), "See pg_hba.conf of the server, and that the role exists.")


def _no_entry(upstream: Upstream, *, encrypted: bool) -> Advice:
    user, dbname = upstream.user, upstream.dbname
    if not encrypted:
        return Advice(
            f"The server takes no connection of {user} without TLS (no pg_hba.conf entry … no encryption), and"
            f" upstream.sslmode is {upstream.sslmode}.",
            "Set DB_SSLMODE=verify-full. RDS wants TLS where rds.force_ssl is 1.",
        )
    return Advice(
        f"pg_hba.conf of the server has no line for {user}, the database {dbname} and this address.",
        f"Add one: hostssl {dbname} {user} ADDRESS/32 scram-sha-256, and reload the server.",
    )


def _login_without_code(text: str, upstream: Upstream) -> Advice:
    fixes = (
        (
            "none is configured",
            "Set DB_READONLY_PASSWORD, or another source of the password (upstream.password_file …).",
        ),
        ("in cleartext", "Set the role's method in pg_hba.conf to scram-sha-256."),
        ("MD5", "Set password_encryption = scram-sha-256 and the role's password anew; or accept md5 in require_auth."),
        ("did not keep", _sentence(LOST)),
        ("startup parameter", _sentence(UNSUPPORTED)),
        ("prove", "Look at who answers there: it does not know the role's password."),
        ("did not answer", "See the server's load and its log; DB_CONNECT_TIMEOUT sets the limit."),
    )
    fix = next((fix for word, fix in fixes if word in text), f"See the log of the server at {upstream.host}.")
    for advice in (LOST, UNSUPPORTED):
        text = text.removesuffix(f"; {advice}")
    return Advice(_sentence(text), fix)


# --- pooler -----------------------------------------------------------------------------------------------------------


def shared_sessions() -> Advice:
    """Explain that a pooler stands in between that does not keep sessions apart."""
    return Advice(
        "A pooler in between shares the server's sessions among its clients: transaction or statement mode, or session"
        " mode without a reset.",
        _sentence(SHARED),
    )


def unwatched(why: str) -> Advice:
    """Explain that there is a pooler, and that it could not be found out what it does with sessions."""
    return Advice(
        _sentence(f"what the pooler in between does with sessions could not be found out: {why}"),
        f"{_sentence(MORE)} {_sentence(SHARED)}",
    )


# --- version ----------------------------------------------------------------------------------------------------------


def version(number: int, text: str) -> Advice | None:
    """Explain why a server's version does not do; None: it does. `number` is server_version_num."""
    if number // 10000 >= OLDEST:
        return None
    return Advice(
        f"PostgreSQL {text} is older than {OLDEST}, the oldest version that SideCart is tested with.",
        f"Upgrade the server; any version from {OLDEST} to {GRAMMAR} will do.",
    )


def version_notes(number: int) -> list[str]:
    """Return what is good to know about a version that does."""
    if number // 10000 <= GRAMMAR:
        return []
    return [f"The filter reads with the grammar of PostgreSQL {GRAMMAR}: syntax that is new since then is refused."]


# --- role -------------------------------------------------------------------------------------------------------------

_SHOWN: Final = 3


def writes(user: str, subjects: Sequence[str], why: str) -> Advice:
    """Explain that the role can write: `subjects` are objects or attributes by which it can; `why` is of the first."""
    more = f" and {len(subjects) - _SHOWN} more" if len(subjects) > _SHOWN else ""
    return Advice(
        f"{user} can do more than read: {', '.join(map(_clean, subjects[:_SHOWN]))}{more}. {_clean(why)}",
        "Log in as a role that sql/readonly_role.sql has made; sidecart doctor lists all of it, with the SQL that takes"
        " it away.",
    )


def unexamined(why: str) -> Advice:
    """Explain that the role could not be examined, though it has logged in."""
    return Advice(_sentence(f"what the role may do could not be asked: {why}"), "Try sidecart doctor.")


# --- SideCart itself --------------------------------------------------------------------------------------------------


def not_served(text: str, where: str) -> Advice:
    """Explain why a client of SideCart's gets no answer to SELECT 1; `text` is what it was told."""
    text = text.replace("the upstream refused SideCart's own login", "refused").replace("the upstream", "it")
    fix = (
        "Name one of its users with --user, and put the password into PGPASSWORD; where auth.users is empty, the"
        " read-only role's own name and password do. auth.rules says who may come in."
    )
    if "none is configured" in text:
        return Advice(f"SideCart on {where} asks its clients for a password.", fix)
    if "28P01" in text or "28000" in text:
        return Advice(f"SideCart on {where} does not let this client in ({_clean(text)}).", fix)
    fix = "See the pieces above, and the log of sidecart serve."
    return Advice(f"SideCart on {where} does not answer SELECT 1: {_sentence(text)}", fix)


def stray(port: int, host: str, listen: int) -> Advice:
    """Explain that the pages of a SideCart are there, and its door is not."""
    return Advice(
        f"A SideCart answers on metrics.port {port}, but nothing listens on {host} port {listen}.",
        "Give preflight the configuration that the process was started with; or it is shutting down.",
    )


def not_ready(why: str) -> Advice:
    """Explain what /readyz says of a SideCart that would serve nobody."""
    return Advice(f"/readyz says: {_clean(why).rstrip('.')}.", "See the pieces above, and the log of sidecart serve.")


def no_page(why: str) -> Advice:
    """Explain why a page could not be had, though SideCart is there."""
    return Advice(_sentence(why), "Correct metrics.host and metrics.port: they must be those of the running process.")


def wrong_page(path: str, status: int) -> Advice:
    """Explain a page that no SideCart serves."""
    return Advice(
        f"{path} has status {status}, and is none of SideCart's.",
        "Another program has metrics.port: correct it, or stop that program.",
    )


# --- what nobody has thought of ---------------------------------------------------------------------------------------


def endless(seconds: float) -> Advice:
    """Explain that a piece was given up."""
    return Advice(
        f"This did not end within {seconds:g} s.", "See the load of the server and of this machine; try again."
    )


def unexpected(what: str) -> Advice:
    """Explain an exception that is a mistake of SideCart's own."""
    return Advice(f"SideCart met an internal error here ({what}).", "Report it, with this line.")


# --- small things -----------------------------------------------------------------------------------------------------


def _day(when: datetime.datetime) -> str:
    return f"{when:%Y-%m-%d}"


def _clean(text: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in text)[:300]


def _sentence(text: str) -> str:
    text = _clean(text).rstrip(". ")
    if text.startswith("upstream."):  # a key stays as it is written
        return f"{text}."
    return f"{text[:1].upper()}{text[1:]}."


def _quoted(name: str) -> str:
    """Return a name as SQL takes it."""
    return name if re.fullmatch(r"[a-z_][a-z0-9_]*", name) else '"' + name.replace('"', '""') + '"'


def _is_rds(host: str) -> bool:
    return ".rds." in f"{host}." and "amazonaws.com" in host.lower()


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True


def _is_private(address: str) -> bool:
    return _is_address(address) and ipaddress.ip_address(address.partition("%")[0]).is_private
