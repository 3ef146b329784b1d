"""The addresses of a host name: looked up again and again, shared, and left when they are gone."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from proxy.databases.addresses import REMEMBERED, Address, Addresses
from proxy.errors import UpstreamError
from proxy.tasks import Tasks


class Name:
    """A host name whose addresses the test sets, and a clock."""

    def __init__(self, host: str = "db.example.test") -> None:
        self.now = 1000.0
        self.answer: list[str] | OSError = ["10.0.0.1"]
        self.asked = 0
        self.tasks = Tasks()
        self.addresses = Addresses(host, 5432, 5.0, self.tasks, lambda: self.now, self._resolve)

    async def _resolve(self, host: str, port: int) -> list[Address]:
        self.asked += 1
        await asyncio.sleep(0)
        if isinstance(self.answer, OSError):
            raise self.answer
        return [(socket.AF_INET, socket.SOCK_STREAM, 0, (address, port)) for address in self.answer]

    async def is_now(self, *answer: str) -> None:
        self.now += 5.0
        self.answer = list(answer)
        await self.addresses.find()


def test(work: Callable[[Name], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    def run() -> None:
        async def inside() -> None:
            await work(Name())

        asyncio.run(inside())

    return run


test.__test__ = False  # type: ignore[attr-defined]


@test
async def test_each_connection_asks_again(name: Name) -> None:
    await name.addresses.find()
    await name.addresses.find()
    assert name.asked == 2


@test
async def test_who_asks_at_the_same_time_shares_the_answer(name: Name) -> None:
    found = await asyncio.gather(*(name.addresses.find() for _ in range(5)))
    assert name.asked == 1
    assert [[address[3][0] for address in each] for each in found] == [["10.0.0.1"]] * 5


@test
async def test_it_is_due_after_dns_max_ttl(name: Name) -> None:
    assert name.addresses.due()
    await name.addresses.find()
    assert not name.addresses.due()
    name.now += 5.0
    assert name.addresses.due()


@test
async def test_it_is_not_due_while_it_is_looked_up(name: Name) -> None:
    looking = asyncio.ensure_future(name.addresses.find())
    await asyncio.sleep(0)
    name.now += 60.0
    assert not name.addresses.due()
    await looking
    assert not name.addresses.due()


@test
async def test_failover_leaves_the_old_address(name: Name) -> None:
    await name.is_now("10.0.0.1")
    assert name.addresses.has("10.0.0.1")
    await name.is_now("10.0.0.2")
    assert not name.addresses.has("10.0.0.1")
    assert name.addresses.has("10.0.0.2")


@test
async def test_name_whose_addresses_come_and_go_keeps_them(name: Name) -> None:
    """An Aurora reader endpoint answers with one replica at a time: no reason to leave the others."""
    for address in ("10.0.0.1", "10.0.0.2", "10.0.0.1", "10.0.0.3", "10.0.0.2"):
        await name.is_now(address)
    assert all(name.addresses.has(f"10.0.0.{number}") for number in (1, 2, 3))
    name.now += REMEMBERED
    await name.is_now("10.0.0.3")
    assert [name.addresses.has(f"10.0.0.{number}") for number in (1, 2, 3)] == [False, False, True]


@test
async def test_address_that_came_back_once_is_left_like_any_other_later(name: Name) -> None:
    """A failover and back again is no rotation for ever."""
    for address in ("10.0.0.1", "10.0.0.2", "10.0.0.1"):
        await name.is_now(address)
    name.now += REMEMBERED
    await name.is_now("10.0.0.1")
    await name.is_now("10.0.0.2")
    assert [name.addresses.has(f"10.0.0.{number}") for number in (1, 2)] == [False, True]


@test
async def test_resolver_that_fails_moves_nobody(name: Name) -> None:
    await name.is_now("10.0.0.1")
    name.answer = socket.gaierror(-3, "Temporary failure in name resolution")
    with pytest.raises(UpstreamError, match=r'"db.example.test" could not be resolved: Temporary failure') as caught:
        await name.addresses.find()
    assert caught.value.transient
    assert name.addresses.has("10.0.0.1")


@test
async def test_before_the_first_answer_every_address_is_good(name: Name) -> None:
    assert name.addresses.has("10.9.9.9")


@pytest.mark.parametrize("host", ["10.0.0.1", "::1", "fe80::1%eth0", "/run/postgresql"])
def test_what_is_no_name_never_moves(host: str) -> None:
    async def work() -> None:
        name = Name(host)
        assert not name.addresses.due()
        assert name.addresses.has("10.0.0.9")

    asyncio.run(work())


@test
async def test_whoever_gives_up_does_not_stop_it_for_the_others(name: Name) -> None:
    one, two = asyncio.ensure_future(name.addresses.find()), asyncio.ensure_future(name.addresses.find())
    await asyncio.sleep(0)
    one.cancel()
    assert len(await two) == 1
