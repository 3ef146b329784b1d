"""Make the TLS contexts: the one that we show to clients, and the one with which we check the upstream.

What sslmode and sslrootcert mean is libpq's (manual, "SSL Support" under libpq; initialize_SSL() in
src/interfaces/libpq/fe-secure-openssl.c), so that a connection string that works with psql works here.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import ipaddress
import os
import re
import socket
import ssl
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from proxy.config import values
from proxy.errors import ConfigError
from proxy.system import files

ALPN: Final = "postgresql"
"""The registered name (PG_ALPN_PROTOCOL in src/include/libpq/pqcomm.h). Direct TLS requires it on both sides, and
Python goes on without it if the peer offers another: who accepts direct TLS checks `selected_alpn_protocol()`."""

SELF_SIGNED_DAYS: Final = 3650

_CRL: Final = re.compile(rb"-----BEGIN X509 CRL-----.*?-----END X509 CRL-----", re.DOTALL)


@dataclass(frozen=True, slots=True)
class ClientSide:
    """Hold what clients are shown, and by what the certificates that they show are verified."""

    certificate: bytes
    """The one that they are shown (DER)."""
    _loaded: ssl.SSLContext = field(repr=False)

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = True,
        server_hostname: str | None = None,
    ) -> ssl.SSLObject:
        """Begin one connection, as SSLContext.wrap_bio does: TLS 1.2 or later, ALPN `postgresql`, nothing resumed.

        A context remembers the TLS 1.2 sessions that began with it. Whoever resumes one shows no certificate again, an
        expired or revoked one gets in, and what the client has shown stays in memory. PostgreSQL turns that off
        (SSL_SESS_CACHE_OFF in be_tls_init(), libpq/be-secure-openssl.c); Python has no word for it. So each connection
        begins with a context of its own, whose memory is empty and ends with it, and is then given the one that has
        loaded the files. That costs 0.1 ms; loading the files each time would cost 0.9 ms (2 cores, OpenSSL 3.0).
        """
        own = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        _serve(own)
        own.verify_mode, own.verify_flags = self._loaded.verify_mode, self._loaded.verify_flags
        shaking = own.wrap_bio(incoming, outgoing, server_side, server_hostname)
        # Not in an sni_callback: OpenSSL calls that of the first context once more for the ClientHello that follows a
        # HelloRetryRequest, with a pointer to a Python object that is gone by then.
        shaking.context = self._loaded
        return shaking


def client_side(
    cert_file: str, key_file: str, ca_file: str = "", crl_file: str = "", *, demand_certificate: bool = False
) -> ClientSide:
    """Return that with which clients are served.

    With two empty names a self-signed certificate for this machine's name and localhost is made in memory; psql's
    default sslmode (prefer) and `require` take it, since they do not verify. With `ca_file` clients are asked for a
    certificate, and what they show is verified, against the lists of `crl_file` too; `demand_certificate` refuses those
    that show none. Raises ConfigError for files that cannot be used or do not belong together.
    """
    if bool(cert_file) != bool(key_file):
        given, missing = ("tls_cert_file", "tls_key_file") if cert_file else ("tls_key_file", "tls_cert_file")
        raise ConfigError(
            f"listen.{given} is set and listen.{missing} is not: give both, or neither for a self-signed certificate."
        )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _serve(context)
    if ca_file:
        # Old CAs in use lack what the strict mode of Python 3.13 asks for; PostgreSQL takes them, too.
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        context.verify_mode = ssl.CERT_REQUIRED if demand_certificate else ssl.CERT_OPTIONAL
        _load_roots(context, "listen.tls_ca_file", ca_file)
        if crl_file:
            # For each certificate of the chain, as PostgreSQL does (X509_V_FLAG_CRL_CHECK_ALL in be_tls_init()).
            context.verify_flags |= ssl.VERIFY_CRL_CHECK_CHAIN
            _load_revoked(context, "listen.tls_crl_file", crl_file)
    if cert_file:
        shown = _load_files(context, cert_file, key_file, ("listen.tls_cert_file", "listen.tls_key_file"))
    else:
        pem = self_signed(socket.gethostname())
        shown = _first(pem)
        with _private_file(pem) as path:
            context.load_cert_chain(path)
    return ClientSide(shown, context)


def common_name(certificate: bytes | None) -> str | None:
    """Return the common name in a client's certificate (DER); None where it has none, or no single one.

    A name with a NUL in it is none: what stands behind it would be hidden from whoever reads C strings
    (CVE-2009-4034).
    """
    if not certificate:
        return None
    try:
        names = x509.load_der_x509_certificate(certificate).subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    except ValueError:
        return None
    name = str(names[0].value) if len(names) == 1 else ""
    return name if name and "\0" not in name else None


def upstream_context(
    sslmode: str, sslrootcert: str, bundled_cas: bytes, sslcert: str = "", sslkey: str = ""
) -> ssl.SSLContext | None:
    """Return the context with which the upstream is checked, or None for `disable`.

    allow, prefer, require: encrypts and verifies nothing, unless sslrootcert is given: then the chain is verified as in
    verify-ca. verify-ca: the chain, not the host name. verify-full: both; the caller passes the host name as
    `server_hostname`. An empty sslrootcert means the system's CAs and `bundled_cas` (PEM); `system` the system's alone,
    with verify-full only. Falling back to plain text (allow, prefer) is the caller's part. `sslcert` and `sslkey` are
    the role's own certificate, with its chain, and its key; a server that asks for one gets it.

    Raises ConfigError for an unknown sslmode, files that cannot be used, a key that others may read, and `system` with
    a weaker mode.
    """
    if sslmode not in values.SSL_MODES:
        raise ConfigError(f"upstream.sslmode is {sslmode!r}; it must be one of {', '.join(values.SSL_MODES)}.")
    if sslrootcert == "system" and sslmode != "verify-full":
        # libpq 16 says: weak sslmode "require" may not be used with sslrootcert=system. Anybody can get a certificate
        # from a public CA, so the chain without the name proves nothing.
        raise ConfigError(
            f"upstream.sslmode {sslmode} is too weak for upstream.sslrootcert system, since anybody can have a "
            "certificate of a public CA; use verify-full."
        )
    if sslmode == "disable":
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _common(context)
    # Python 3.13 made VERIFY_X509_STRICT a default (ssl.create_default_context). It asks for extensions that RFC 5280
    # wants and that CAs in use do not have: old RDS roots, and most CAs made with `openssl req -x509`, lack the key
    # usage or the authority key identifier. libpq does not set it, so what psql accepts would fail here.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if sslcert:
        _load_files(context, sslcert, sslkey, ("upstream.sslcert", "upstream.sslkey"))
    if sslmode in ("allow", "prefer", "require") and not sslrootcert:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context
    context.check_hostname = sslmode == "verify-full"
    context.verify_mode = ssl.CERT_REQUIRED
    if sslrootcert in ("", "system"):
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
        if sslrootcert == "" and bundled_cas:
            _load_bundle(context, bundled_cas)
    else:
        _load_roots(context, "upstream.sslrootcert", sslrootcert)
    return context


def end_point(certificate: bytes | None) -> bytes | None:
    """Return what binds a login to the server's certificate (DER), `tls-server-end-point` of RFC 5929, section 4.1.

    It is the hash of the certificate by the algorithm of its signature, with SHA-256 in the place of MD5 and SHA-1.
    None where there is no such algorithm, as with Ed25519: then there is no channel binding.
    """
    if certificate is None:
        return None
    try:
        algorithm = x509.load_der_x509_certificate(certificate).signature_hash_algorithm
    except (ValueError, UnsupportedAlgorithm):
        return None
    if algorithm is None:
        return None
    name = "sha256" if algorithm.name in ("md5", "sha1") else algorithm.name
    try:
        return hashlib.new(name, certificate).digest()
    except ValueError:
        return None


def self_signed(hostname: str) -> bytes:
    """Return a new EC P-256 key and a certificate for `hostname`, localhost and the loopback addresses, as one PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "sidecart")])
    names: list[x509.GeneralName] = [x509.DNSName("localhost")]
    if hostname != "localhost":
        # A machine may be called what no certificate can hold (x509.DNSName takes ASCII); it then goes without.
        with contextlib.suppress(ValueError):
            names.append(x509.DNSName(hostname))
    names += [x509.IPAddress(ipaddress.ip_address(address)) for address in ("127.0.0.1", "::1")]
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))  # a client's clock may be slow
        .not_valid_after(now + datetime.timedelta(days=SELF_SIGNED_DAYS))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return private + certificate.public_bytes(serialization.Encoding.PEM)


def _serve(context: ssl.SSLContext) -> None:
    """Set up a context for connections of clients."""
    _common(context)
    # As be-secure-openssl.c does: no renegotiation (a client could make us work for nothing), no session tickets (no
    # PostgreSQL client needs them, and a ticket is written to a client that may already have gone).
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_TICKET
    context.num_tickets = 0


def _common(context: ssl.SSLContext) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_2  # libpq's and PostgreSQL's default ssl_min_protocol_version
    context.set_alpn_protocols([ALPN])


@contextlib.contextmanager
def _private_file(content: bytes) -> Iterator[str]:
    """Put `content` where OpenSSL can open it by name and nobody else can; it is gone when the block ends.

    On Linux it never touches a disk, and works in a container whose file system is read-only.
    """
    if hasattr(os, "memfd_create") and os.path.isdir("/proc/self/fd"):
        descriptor = os.memfd_create("sidecart-tls", os.MFD_CLOEXEC)
        try:
            os.write(descriptor, content)
            yield f"/proc/self/fd/{descriptor}"
        finally:
            os.close(descriptor)
        return
    descriptor, path = tempfile.mkstemp(prefix="sidecart-")  # mode 0600
    try:
        try:
            os.write(descriptor, content)
        finally:
            os.close(descriptor)
        yield path
    finally:
        os.unlink(path)


def _load_files(context: ssl.SSLContext, cert_file: str, key_file: str, names: tuple[str, str]) -> bytes:
    """Load a certificate and its key as the files are at this moment; return the certificate (DER).

    `names` are the keys of the configuration that name the files.
    """
    of_certificate, of_key = names
    certificate = _content(of_certificate, cert_file)
    key = _content(of_key, key_file, private=True)
    asked = False

    def no_passphrase() -> bytes:
        # Without this OpenSSL asks on the terminal, and a service hangs at start.
        nonlocal asked
        asked = True
        return b""

    try:
        # Not the files: they may be replaced meanwhile, and what is bound to has to be what is shown.
        with _private_file(certificate) as cert_path, _private_file(key) as key_path:
            context.load_cert_chain(cert_path, key_path, no_passphrase)
    except (ssl.SSLError, OSError, ValueError) as error:
        if asked:
            raise ConfigError(
                f"{of_key} {key_file!r} is encrypted; SideCart needs the key without a passphrase."
            ) from error
        if getattr(error, "reason", None) == "KEY_VALUES_MISMATCH":
            raise ConfigError(
                f"{of_key} {key_file!r} is not the key of the certificate in {of_certificate} {cert_file!r}."
            ) from error
        raise ConfigError(
            f"{of_certificate} {cert_file!r} and {of_key} {key_file!r} cannot be loaded as a PEM "
            f"certificate chain and its key ({_reason(error)})."
        ) from error
    return _first(certificate)


def _first(pem: bytes) -> bytes:
    """Return the first certificate in `pem` as DER."""
    found = x509.load_pem_x509_certificate(pem[pem.index(b"-----BEGIN CERTIFICATE") :])
    return found.public_bytes(serialization.Encoding.DER)


def _load_roots(context: ssl.SSLContext, name: str, path: str) -> None:
    # libpq with sslmode require goes on without verification if the file is not there. Whoever names a root file wants
    # it used, so here that is an error in every mode.
    content = _content(name, path)
    try:
        with _private_file(content) as file:  # what has been looked at, and not what stands there by now
            context.load_verify_locations(cafile=file)
    except (ssl.SSLError, OSError) as error:
        raise ConfigError(f"{name} {path!r} cannot be loaded as PEM certificates ({_reason(error)}).") from error


def _load_revoked(context: ssl.SSLContext, name: str, path: str) -> None:
    # The lists alone: OpenSSL would take a certificate in the file for a CA to be trusted.
    lists = _CRL.findall(_content(name, path, files.LONGEST))
    try:
        for each in lists:
            x509.load_pem_x509_crl(each)
        with _private_file(b"\n".join(lists)) as file:
            context.load_verify_locations(cafile=file)
    except (ssl.SSLError, OSError, ValueError) as error:
        why = _reason(error) if lists else "there is none in it"
        raise ConfigError(f"{name} {path!r} cannot be loaded as PEM lists of revoked certificates ({why}).") from error


def _load_bundle(context: ssl.SSLContext, bundle: bytes) -> None:
    try:
        context.load_verify_locations(cadata=bundle.decode("ascii"))
    except (ssl.SSLError, ValueError) as error:
        raise ConfigError(
            f"The CA certificates that come with SideCart cannot be loaded ({_reason(error)}); reinstall it, or set "
            "upstream.sslrootcert."
        ) from error


def _content(key: str, path: str, longest: int = files.SMALL, *, private: bool = False) -> bytes:
    """Read the file: OpenSSL's own error says neither which of two files nor why it cannot."""
    try:
        return files.read(path, longest, private=private)
    except files.FileError as error:
        raise ConfigError(f"{key} {path!r} {error}.") from error


def _reason(error: Exception) -> str:
    reason = getattr(error, "reason", None)
    return str(reason).replace("_", " ").lower() if reason else type(error).__name__
