"""Who is sent away when there is no room: the oldest guest of the address that has most, and nobody too soon."""

from __future__ import annotations

from proxy.clients.lobby import PATIENCE, Guest, Lobby


class Guests:
    def __init__(self) -> None:
        self.lobby = Lobby()
        self.gone: list[str] = []

    def come(self, address: str, count: int = 1, now: float = 0.0) -> list[Guest]:
        return [self._come(address, now) for _ in range(count)]

    def _come(self, address: str, now: float) -> Guest:
        guest = self.lobby.enter(address, now)
        guest.turn_out = lambda: self.gone.append(f"{guest.address} {guest.since:g}")
        return guest


def test_nobody_waits_for_the_many_of_one_address() -> None:
    guests = Guests()
    guests.come("10.0.0.1", 3, now=1.0)
    guests.come("10.0.0.2", 5, now=2.0)
    for _ in range(2):
        assert guests.lobby.make_room("10.0.0.3", 2.1)
        guests.come("10.0.0.3", now=2.1)
    assert guests.gone == ["10.0.0.2 2"] * 2
    assert len(guests.lobby) == 8


def test_clients_of_one_address_that_come_at_once_do_not_send_each_other_away() -> None:
    guests = Guests()
    guests.come("10.0.0.1", 5, now=1.0)
    guests.come("10.0.0.1", 5, now=2.0)
    assert not guests.lobby.make_room("10.0.0.1", 1.0 + PATIENCE / 2)
    assert guests.lobby.make_room("10.0.0.1", 1.0 + PATIENCE)
    assert guests.gone == ["10.0.0.1 1"]


def test_many_addresses_with_one_guest_each_make_room_by_and_by() -> None:
    guests = Guests()
    for last in range(9):
        guests.come(f"10.0.0.{last}", now=float(last))
    assert not guests.lobby.make_room("10.0.1.1", 1.0)
    assert guests.lobby.make_room("10.0.1.1", PATIENCE + 1.0)
    assert guests.gone == ["10.0.0.0 0"]


def test_addresses_that_one_host_has_count_as_one() -> None:
    guests = Guests()
    for last in range(4):
        guests.come(f"2001:db8:1:2::{last}%eth0")
        guests.come(f"::ffff:10.0.0.{last}")
    assert guests.lobby.make_room("2001:db8:1:3::1", 0.0)
    assert not guests.lobby.make_room("2001:db8:1:2::5", 0.1) or guests.gone[1].startswith("2001:db8:1:2:")
    assert guests.gone[0] == "2001:db8:1:2::0%eth0 0"


def test_who_has_left_is_neither_counted_nor_sent_away() -> None:
    guests = Guests()
    assert not guests.lobby.make_room("", 100.0)
    first, second, third = guests.come("", 3)
    second.leave()
    first.leave()
    first.leave()
    assert len(guests.lobby) == 1
    assert guests.lobby.make_room("", 100.0)
    assert len(guests.lobby) == 0
    third.leave()
    assert len(guests.lobby) == 0
    assert guests.gone == [" 0"]
