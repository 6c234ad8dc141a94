"""Checks whether a Ray head answers at an address, before Ray itself connects.

Ray 2.60 tries for more than three minutes, and then reports only that it failed.
"""

from __future__ import annotations

import errno
import os
import socket
import time

PATIENCE_S = 20.0  # a head may still be starting, or its name may not resolve yet
_ONE_TRY_S = 5.0
_PAUSE_S = 1.0
# Ray uses gRPC over HTTP/2: the client's preface with empty settings, and the start of a server's answer.
_OPENING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
_FRAME_HEADER, _SETTINGS = 9, 4


def no_answer(host: str, port: int, patience_s: float = PATIENCE_S) -> str:
    """Why no head answers at this address, and what to check; empty if one does."""
    end = time.monotonic() + patience_s
    while True:
        problem = _try(host, port)
        if not problem or time.monotonic() + _PAUSE_S >= end:
            return problem
        time.sleep(_PAUSE_S)


def _try(host: str, port: int) -> str:
    try:
        with socket.create_connection((host, port), timeout=_ONE_TRY_S) as connection:
            if os.environ.get("RAY_USE_TLS", "0") != "0":
                return ""  # encrypted: only Ray has the keys, so its own connection must show
            connection.settimeout(_ONE_TRY_S)
            connection.sendall(_OPENING)
            return "" if _greets(connection) else _SOMETHING_ELSE
    except socket.gaierror:
        return f"the host name {host!r} cannot be resolved; check its spelling and this machine's DNS"
    except ConnectionRefusedError:
        return (
            f"nothing listens on port {port} of {host}; check that the head node runs (`ray start --head`) and "
            "that the port is right (6379 by default)"
        )
    except ConnectionError:
        return _SOMETHING_ELSE
    except TimeoutError:
        return f"{host} does not answer on port {port}; check that the head node runs and no firewall blocks the port"
    except OSError as error:
        if error.errno in (errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EADDRNOTAVAIL):
            return f"there is no route from this machine to {host}; check the address and the network"
        raise


_SOMETHING_ELSE = (
    "something listens there, but it is not the head of a Ray cluster; check the port (6379 by default; 8265 is the "
    "dashboard, 10001 is for ray:// addresses)"
)


def _greets(connection: socket.socket) -> bool:
    """Whether the server begins with HTTP/2 settings. False if it sends nothing."""
    said = b""
    try:
        while len(said) < _FRAME_HEADER:
            more = connection.recv(64)
            if not more:
                return False
            said += more
    except TimeoutError:
        return False
    return said[3] == _SETTINGS and not any(said[5:9])
