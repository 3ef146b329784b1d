"""Read what a server's certificate says of itself: for whom it is, who signed it, when it begins and ends.

A certificate that was refused proves nothing. What it says is shown to a person and decides nothing.
"""

from __future__ import annotations

import datetime
import re
import warnings
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.x509.oid import NameOID

MAX_NAMES: Final = 20
MAX_NAME: Final = 253
"""Characters of a name that are kept: those of the longest host name."""

_RDS_CA: Final = re.compile(r"Amazon RDS (?:Preview |Beta )?([a-z]{2}(?:-[a-z]+)+-\d)\b")


@dataclass(frozen=True, slots=True)
class Certificate:
    """Hold what a server's certificate says of itself. Texts are printable, and bounded."""

    subject: str
    issuer: str
    names: tuple[str, ...]
    """Host names and addresses that it is for."""
    starts: datetime.datetime
    ends: datetime.datetime
    self_signed: bool

    def days_left(self, now: datetime.datetime) -> int:
        """Return the whole days until it ends; negative when it has."""
        return (self.ends - now).days


@dataclass(frozen=True, slots=True)
class Authority:
    """Hold name and end of a CA that is trusted."""

    name: str
    ends: datetime.datetime


def read(der: bytes) -> Certificate | None:
    """Return what a certificate says; None where it cannot be read."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a serial number, say, that RFC 5280 does not like
            found = x509.load_der_x509_certificate(der)
        return Certificate(
            subject=_name(found.subject),
            issuer=_name(found.issuer),
            names=_names(found),
            starts=found.not_valid_before_utc,
            ends=found.not_valid_after_utc,
            self_signed=found.subject == found.issuer,
        )
    except (ValueError, TypeError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType):
        return None


def region(name: str) -> str:
    """Return the AWS region in the name of a CA of Amazon RDS; empty for any other CA."""
    found = _RDS_CA.search(name)
    return found[1] if found else ""


def _name(name: x509.Name) -> str:
    common = name.get_attributes_for_oid(NameOID.COMMON_NAME)
    return _clean(str(common[-1].value) if common else name.rfc4514_string())


def _names(certificate: x509.Certificate) -> tuple[str, ...]:
    """Return the alternative names; without any, as libpq has it, the common name."""
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return (_name(certificate.subject),)
    names = [*found.get_values_for_type(x509.DNSName), *map(str, found.get_values_for_type(x509.IPAddress))]
    return tuple(map(_clean, names[:MAX_NAMES]))


def _clean(text: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in text)[:MAX_NAME]
