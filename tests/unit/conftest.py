"""What the unit tests share."""

from __future__ import annotations

import pytest

from tests.unit.session.town import Town


@pytest.fixture
def town() -> Town:
    return Town()
