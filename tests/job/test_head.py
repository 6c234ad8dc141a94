"""What answers at the address of a cluster, on real sockets."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import grpc
import pytest

from sam3ray.job import head
from sam3ray.job.head import no_answer


@contextmanager
def listening(reply: bytes) -> Iterator[int]:
    """A server that says one thing to each caller; nothing at all, where that is empty, and stays connected."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        held: list[socket.socket] = []

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                held.append(connection)
                connection.sendall(reply)
                if reply:
                    connection.close()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()
            for each in held:
                each.close()


def test_a_server_that_speaks_as_ray_does() -> None:
    server = grpc.server(None)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        assert no_answer("127.0.0.1", port) == ""
    finally:
        server.stop(None)


@pytest.mark.parametrize("reply", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"no", b""])
def test_something_else_listens(reply: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head, "_ONE_TRY_S", 0.2)
    with listening(reply) as port:
        assert no_answer("127.0.0.1", port, 0).startswith("something listens there, but it is not the head of a Ray")


def test_with_tls_the_port_is_all_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_USE_TLS", "1")
    with listening(b"no") as port:
        assert no_answer("127.0.0.1", port) == ""


def test_nothing_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert no_answer("127.0.0.1", port, 0).startswith(f"nothing listens on port {port} of 127.0.0.1; check that")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (socket.gaierror(-2, "unknown"), "the host name 'head' cannot be resolved; check its spelling"),
        (TimeoutError(), "head does not answer on port 6379; check that the head node runs and no firewall"),
        (OSError(113, "No route to host"), "there is no route from this machine to head; check the address"),
    ],
)
def test_the_way_there_fails(error: OSError, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(socket, "create_connection", fail)
    assert no_answer("head", 6379, 0).startswith(said)


def test_a_head_that_starts_meanwhile_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    problems = ["nothing listens", "nothing listens", ""]
    monkeypatch.setattr(head, "_try", lambda host, port: problems.pop(0))
    monkeypatch.setattr(head, "_PAUSE_S", 0.0)
    assert no_answer("head", 6379) == ""
    assert problems == []
