"""Write config.yaml and docs/configuration.md anew, from what proxy/config/schema.py says of each key.

Run it as `.venv/bin/python -m tools.configuration`; tests/unit/config/test_describe.py compares both files.
"""

from __future__ import annotations

from pathlib import Path

from proxy.config import describe

ROOT = Path(__file__).parents[1]
WRITTEN = {ROOT / "config.yaml": describe.config_file, ROOT / "docs/configuration.md": describe.page}
"""Each file, and what writes it."""


def main() -> None:
    for path, text in WRITTEN.items():
        path.write_text(text(), encoding="utf-8")


if __name__ == "__main__":
    main()
