"""The metrics and health pages over real sockets on the loopback interface."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from proxy.monitor import metrics, web
from proxy.monitor.metrics import Gauges
from proxy.monitor.web import Web
from proxy.stats import Stats
from tests.running import wait_until

Answer = tuple[bool, dict[str, object]]


KEY = "0123456789abcdef"
ASKED = f"GET /sessions HTTP/1.0\r\nAuthorization: Bearer {KEY}\r\n\r\n".encode()


def well() -> Answer:
    return True, {"clients": 3}


@pytest.fixture
def serve() -> Iterator[Callable[..., Web]]:
    """Return a function that starts a Web and closes it at the end of the test."""
    started = []

    def start(health: Callable[[], Answer] = well, ready: Callable[[], Answer] = well, **options: object) -> Web:
        site = Web("127.0.0.1", 0, metrics.registry(Stats(), Gauges), health, ready, **options)  # type: ignore[arg-type]
        site.start()
        started.append(site)
        return site

    yield start
    for site in started:
        site.close()


def ask(
    site: Web, path: str, method: str = "GET", headers: dict[str, str] | None = None
) -> tuple[http.client.HTTPResponse, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", site.port, timeout=10)
    try:
        connection.request(method, path, headers=headers or {})
        response = connection.getresponse()
        return response, response.read()
    finally:
        connection.close()


def connect(site: Web) -> socket.socket:
    return socket.create_connection(("127.0.0.1", site.port), timeout=10)


def read_all(connection: socket.socket) -> bytes:
    chunks = []
    try:
        while chunk := connection.recv(65536):
            chunks.append(chunk)
    except ConnectionResetError:
        pass
    return b"".join(chunks)


def test_metrics_page(serve: Callable[..., Web]) -> None:
    response, body = ask(serve(), "/metrics")
    assert response.status == 200
    assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    assert int(response.headers["Content-Length"]) == len(body)
    assert b"\nsidecart_bugs_total 0.0\n" in body


def test_metrics_page_as_prometheus_asks_for_it(serve: Callable[..., Web]) -> None:
    accept = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.2,*/*;q=0.1"
    response, body = ask(serve(), "/metrics?x=1", headers={"Accept": accept})
    assert response.status == 200
    assert response.headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
    assert body.endswith(b"# EOF\n")


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
@pytest.mark.parametrize("fine,status,word", [(True, 200, "ok"), (False, 503, "failing")])
def test_health_pages(serve: Callable[..., Web], path: str, fine: bool, status: int, word: str) -> None:
    def asked() -> Answer:
        return fine, {"draining": not fine}

    def other() -> Answer:
        raise AssertionError("the other page was asked for")

    site = serve(asked, other) if path == "/healthz" else serve(other, asked)
    response, body = ask(site, path)
    assert response.status == status
    assert response.headers["Content-Type"] == "application/json"
    assert json.loads(body) == {"status": word, "draining": not fine}


def test_health_changes_between_two_questions(serve: Callable[..., Web]) -> None:
    answers = [(True, {}), (False, {})]
    site = serve(lambda: answers.pop(0))
    assert [ask(site, "/healthz")[0].status for _ in range(2)] == [200, 503]


@pytest.mark.parametrize("path", ["/metrics", "/healthz", "/readyz", "/nothing"])
def test_head_is_get_without_a_body(serve: Callable[..., Web], path: str) -> None:
    site = serve()
    get, body = ask(site, path)
    head, nothing = ask(site, path, "HEAD")
    assert head.status == get.status
    assert nothing == b""
    assert head.headers["Content-Type"] == get.headers["Content-Type"]
    if path != "/metrics":  # its numbers have moved in between
        assert head.headers["Content-Length"] == str(len(body))
    with connect(site) as raw:  # http.client would not read a body that must not be there
        raw.sendall(f"HEAD {path} HTTP/1.0\r\n\r\n".encode())
        assert read_all(raw).endswith(b"\r\n\r\n")


@pytest.mark.parametrize("path", ["/", "/metrics/", "/METRICS", "/healthz/../metrics", "/%6detrics", "http://["])
def test_other_paths_are_404_and_list_the_three(serve: Callable[..., Web], path: str) -> None:
    with connect(site := serve()) as raw:
        raw.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
        answer = read_all(raw)
    assert answer.startswith(b"HTTP/1.1 404 ")
    for name in (b"/metrics", b"/healthz", b"/readyz"):
        assert name in answer.partition(b"\r\n\r\n")[2]
    assert site.port


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH", "INVENTED", "get"])
def test_other_methods_are_405(serve: Callable[..., Web], method: str) -> None:
    response, _ = ask(serve(), "/metrics", method)
    assert response.status == 405
    assert response.headers["Allow"] == "GET, HEAD"


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n",
        b"junk\r\n\r\n",
        b"POST / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
    ],
)
def test_nothing_tells_the_python_version(serve: Callable[..., Web], request_bytes: bytes) -> None:
    with connect(serve()) as raw:
        raw.sendall(request_bytes)
        answer = read_all(raw)
    assert b"Server: sidecart\r\n" in answer
    assert b"Python" not in answer
    assert answer.startswith(b"HTTP/1.1 ")


def test_attack_request_that_is_quoted_in_the_answer(serve: Callable[..., Web]) -> None:
    with connect(serve()) as raw:
        raw.sendall(b"<script>alert(1)</script> x y z\r\n\r\n")
        answer = read_all(raw)
    assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert b"script" not in answer


@pytest.mark.parametrize(
    "attack",
    [
        b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n" + b"x: y\r\n" * 500 + b"\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nx: " + b"y" * 70_000 + b"\r\n\r\n",
    ],
    ids=["long line", "many headers", "long header"],
)
def test_attack_request_without_bounds(serve: Callable[..., Web], attack: bytes) -> None:
    with connect(site := serve()) as raw:
        try:
            raw.sendall(attack)
            answer = read_all(raw)
        except (BrokenPipeError, ConnectionResetError):
            answer = b""
    assert not answer or answer.startswith((b"HTTP/1.1 414", b"HTTP/1.1 431"))
    assert ask(site, "/healthz")[0].status == 200


def test_attack_silent_client_is_closed(serve: Callable[..., Web], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "ARRIVAL_DEADLINE", 0.05)
    with connect(serve()) as silent:
        assert read_all(silent) == b""  # a recv that times out after 10 s would raise


def test_attack_client_that_reads_no_answer_is_closed(
    serve: Callable[..., Web], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web, "DELIVERY_DEADLINE", 0.05)
    rows = [{"user": "x" * 1_000_000}] * 20  # more than the kernel takes
    site = serve(sessions=lambda: rows, sessions_key=KEY)
    with connect(site) as deaf:
        deaf.sendall(ASKED)
        time.sleep(1)
        assert len(read_all(deaf)) < 20_000_000


def test_attack_requests_behind_the_first_one_are_not_answered(serve: Callable[..., Web]) -> None:
    with connect(serve()) as eager:
        eager.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: keep-alive\r\n\r\n" * 3)
        answer = read_all(eager)
    assert answer.count(b"HTTP/1.1 ") == 1
    assert b"Connection: close\r\n" in answer


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET /healthz HTTP/1.1\r\n\r\n",  # HTTP/1.1 wants a Host
        b"GET /healthz HTTP/1.0\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"GET /healthz HTTP/1.0\r\nTransfer-Encoding: chunked, chunked\r\n\r\n",
        b"GET /healthz HTTP/1.0\r\n x: folded\r\n\r\n",
        b"GET /health\0z HTTP/1.0\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    ],
)
def test_attack_request_that_can_be_read_in_two_ways(serve: Callable[..., Web], request_bytes: bytes) -> None:
    with connect(serve()) as raw:
        raw.sendall(request_bytes)
        assert read_all(raw).startswith((b"HTTP/1.1 400 Bad Request\r\n", b"HTTP/1.1 501 Not Implemented\r\n"))


def test_attack_client_that_drips_is_closed(serve: Callable[..., Web], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "ARRIVAL_DEADLINE", 0.3)
    with connect(serve()) as drip:
        drip.settimeout(0.02)
        for _ in range(500):
            try:
                drip.send(b"G")
                if drip.recv(1) == b"":
                    break
            except TimeoutError:
                continue
            except (BrokenPipeError, ConnectionResetError):
                break
        else:
            raise AssertionError("the client still drips")


def test_attack_more_clients_than_threads(serve: Callable[..., Web], capfd: pytest.CaptureFixture[str]) -> None:
    release, all_in = threading.Event(), threading.Semaphore(0)

    def slow() -> Answer:
        all_in.release()
        assert release.wait(10)
        return True, {}

    site = serve(slow)
    held = [connect(site) for _ in range(web.MAX_REQUESTS)]
    try:
        for each in held:
            each.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
        for _ in held:
            assert all_in.acquire(timeout=10)
        with connect(site) as one_more:
            assert read_all(one_more).startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
        release.set()
        for each in held:
            assert read_all(each).startswith(b"HTTP/1.1 200 OK\r\n")
    finally:
        release.set()
        for each in held:
            each.close()
    assert ask(site, "/readyz")[0].status == 200
    assert capfd.readouterr().err == ""


def test_attack_pages_that_take_long_keep_no_health_check_out(serve: Callable[..., Web]) -> None:
    release, all_in = threading.Event(), threading.Semaphore(0)

    def slow() -> list[dict[str, object]]:
        all_in.release()
        assert release.wait(10)
        return []

    site = serve(sessions=slow, sessions_key=KEY)
    with contextlib.ExitStack() as held:
        held.callback(release.set)
        for _ in range(web.MAX_PAGES):
            held.enter_context(connect(site)).sendall(ASKED)
            assert all_in.acquire(timeout=10)
        for _ in range(web.MAX_REQUESTS):
            assert ask(site, "/sessions")[0].status == 503
            assert ask(site, "/healthz")[0].status == 200


@pytest.mark.parametrize("said", [b"", b"GET /healthz HT", b"GET /metrics HTTP/1.0\r\nAccept: text"])
def test_attack_slow_connections_keep_no_health_check_out(serve: Callable[..., Web], said: bytes) -> None:
    site = serve()
    with contextlib.ExitStack() as held:
        for _ in range(5 * web.MAX_REQUESTS):
            held.enter_context(connect(site)).sendall(said)
            assert ask(site, "/healthz")[0].status == 200
        assert ask(site, "/readyz")[0].status == 200


def test_attack_connections_that_read_no_answer_keep_no_health_check_out(serve: Callable[..., Web]) -> None:
    rows = [{"user": "x" * 1_000_000}] * 20  # more than the kernel takes
    site = serve(sessions=lambda: rows, sessions_key=KEY)
    with contextlib.ExitStack() as held:
        for _ in range(2 * web.MAX_REQUESTS):
            held.enter_context(connect(site)).sendall(ASKED)
        wait_until(lambda: ask(site, "/healthz")[0].status == 200, 10, "the health page")


def test_health_answers_while_the_loop_that_started_it_hangs(serve: Callable[..., Web]) -> None:
    async def hang() -> list[int]:
        site = serve()
        found: list[int] = []
        asking = threading.Thread(target=lambda: found.append(ask(site, "/healthz")[0].status))
        asking.start()
        asking.join(10)  # the loop does nothing meanwhile
        return found

    assert asyncio.run(hang()) == [200]


def test_page_that_raises_is_500_and_reported(serve: Callable[..., Web], capfd: pytest.CaptureFixture[str]) -> None:
    seen: list[Exception] = []

    def broken() -> Answer:
        raise KeyError("a secret of the inside")

    site = serve(broken, on_error=seen.append)
    response, body = ask(site, "/healthz")
    assert response.status == 500
    assert b"secret" not in body
    assert [type(error) for error in seen] == [KeyError]
    assert capfd.readouterr().err == ""


def test_port_in_use_is_an_oserror(serve: Callable[..., Web]) -> None:
    site = serve()
    second = Web("127.0.0.1", site.port, metrics.registry(Stats(), Gauges), well, well)
    with pytest.raises(OSError, match="in use"):
        second.start()
    second.close()
    assert ask(site, "/healthz")[0].status == 200


def test_unknown_host_is_an_oserror() -> None:
    with pytest.raises(OSError):
        Web("256.256.256.256", 0, metrics.registry(Stats(), Gauges), well, well).start()


def test_close_ends_listener_and_requests_and_frees_the_port() -> None:
    site = Web("127.0.0.1", 0, metrics.registry(Stats(), Gauges), well, well)
    assert site.port == 0
    site.start()
    port = site.port
    assert ask(site, "/healthz")[0].status == 200
    with connect(site) as silent:
        site.close()
        assert read_all(silent) == b""
    site.close()
    assert site.port == port
    again = Web("127.0.0.1", port, metrics.registry(Stats(), Gauges), well, well)
    again.start()
    assert ask(again, "/healthz")[0].status == 200
    again.close()


def test_start_twice_is_a_mistake_that_is_named(serve: Callable[..., Web]) -> None:
    with pytest.raises(RuntimeError, match="called twice"):
        serve().start()


def test_localhost_is_reached_as_127_0_0_1() -> None:
    site = Web("localhost", 0, metrics.registry(Stats(), Gauges), well, well)
    site.start()
    try:
        assert ask(site, "/healthz")[0].status == 200
    finally:
        site.close()


def test_ipv6() -> None:
    site = Web("::1", 0, metrics.registry(Stats(), Gauges), well, well)
    try:
        site.start()
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")
    try:
        with socket.create_connection(("::1", site.port), timeout=10) as raw:
            raw.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
            assert read_all(raw).startswith(b"HTTP/1.1 200")
    finally:
        site.close()


def test_sessions_are_told_to_this_machine_alone(serve: Callable[..., Web]) -> None:
    site = serve(sessions=lambda: [{"id": 1, "user": "analyst"}], sessions_key=KEY)
    status, _, body, _ = site._site.page("/sessions", "", "127.0.0.1", f"Bearer {KEY}".encode())
    assert (status, json.loads(body)) == (200, [{"id": 1, "user": "analyst"}])
    for peer in ("10.0.0.7", "fe80::1%eth0"):
        status, _, text, _ = site._site.page("/sessions", "", peer, f"Bearer {KEY}".encode())
        assert status == 403 and b"analyst" not in text
    response, body = ask(site, "/sessions")
    assert response.status == 401 and b"analyst" not in body
