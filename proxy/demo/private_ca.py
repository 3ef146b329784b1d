"""Make a certificate authority for one occasion, with one server certificate; its own key is never written anywhere."""

from __future__ import annotations

import datetime
import ipaddress
from dataclasses import dataclass, field
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

CA_NAME: Final = "SideCart embedded PostgreSQL CA"
CLOCKS_DIFFER: Final = datetime.timedelta(hours=1)
"""How old a new certificate is at once: clocks of containers and hosts differ."""


@dataclass(frozen=True, slots=True)
class ServerCertificate:
    """Hold PEM bytes: the CA's certificate, the server's certificate and the server's private key."""

    ca: bytes
    certificate: bytes
    key: bytes = field(repr=False)


def server_certificate(
    *,
    hosts: tuple[str, ...] = ("localhost",),
    addresses: tuple[str, ...] = (),
    ca_name: str = CA_NAME,
    days: int = 30,
    age: datetime.timedelta = CLOCKS_DIFFER,
) -> ServerCertificate:
    """Return a new CA and a certificate that it signed for these host names and IP addresses; both live `days`.

    They were made as long ago as `age` says: tests need some that are over.
    """
    start = datetime.datetime.now(datetime.UTC) - age
    end = start + datetime.timedelta(days=days)
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, ca_name)])
    alternatives: list[x509.GeneralName] = [x509.DNSName(host) for host in hosts]
    alternatives += [x509.IPAddress(ipaddress.ip_address(address)) for address in addresses]

    def builder(name: x509.Name, public: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        made = x509.CertificateBuilder().subject_name(name).issuer_name(issuer).public_key(public)
        made = made.serial_number(x509.random_serial_number()).not_valid_before(start).not_valid_after(end)
        # OpenSSL's strict mode (Python 3.13's default context) wants both key identifiers.
        return made.add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False
        ).add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)

    ca = (
        builder(issuer, ca_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(sign_certificates=True), critical=True)
        .sign(ca_key, hashes.SHA256())
    )
    certificate = (
        builder(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, hosts[0])]), key.public_key())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(sign_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    return ServerCertificate(
        ca.public_bytes(pem),
        certificate.public_bytes(pem),
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
    )


def _usage(*, sign_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=sign_certificates,
        crl_sign=sign_certificates,
        encipher_only=False,
        decipher_only=False,
    )
