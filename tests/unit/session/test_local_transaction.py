"""The transaction of a client that has no upstream."""

from __future__ import annotations

import pytest

from proxy import protocol as p
from proxy.session.local_transaction import BEGIN, LocalTransaction


@pytest.mark.parametrize(
    ("status", "then"), [(p.IDLE, p.IDLE), (p.IN_TRANSACTION, p.FAILED), (p.FAILED, p.FAILED)], ids="ITE"
)
def test_error_fails_a_transaction_and_nothing_else(status: int, then: int) -> None:
    local = LocalTransaction()
    local.status = status
    local.fail()
    assert local.status == then


def test_server_has_it_from_the_lease_on_in_the_clients_words() -> None:
    local = LocalTransaction()
    local.status = p.IN_TRANSACTION
    local.begin = p.query(b"begin /* mine */")
    assert local.made_real() == p.query(b"begin /* mine */")
    assert (local.status, local.begin) == (p.IDLE, BEGIN)


def test_one_that_a_loss_leaves_is_begun_in_words_of_ours() -> None:
    local = LocalTransaction()
    local.begin = p.query(b"begin isolation level repeatable read")
    local.became(p.FAILED)
    assert local.status == p.FAILED
    assert local.made_real() == BEGIN
