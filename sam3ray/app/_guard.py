"""Decides who may use the server: only holders of the token, and only from pages that the server itself served.

* The token is in the address of the first request. The browser then keeps it in a cookie that scripts cannot read and
  that is not sent with requests from other sites.
* `Host` must name this server, so that no other name can be pointed at it (DNS rebinding).
* `Origin`, where a browser sends one, must be this server: always on a POST and on a WebSocket.
"""

from __future__ import annotations

import hmac
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs

from starlette.responses import PlainTextResponse, RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "worker-src 'self'; media-src 'self' blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = (
    (b"content-security-policy", _POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(self), microphone=(), geolocation=()"),
)
_SAFE = frozenset({"GET", "HEAD"})


class Guard:
    """ASGI middleware.

    Args:
        token: the secret in the address.
        hosts: `Host` values that are this server, as "127.0.0.1:8000"; None: any, for a server that others reach
            under names unknown here.
    """

    def __init__(self, app: ASGIApp, token: str, hosts: frozenset[str] | None, port: int) -> None:
        self._app, self._token, self._hosts = app, token, hosts
        self._cookie = f"sam3ray-{port}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        headers = {key.decode("latin-1"): value.decode("latin-1") for key, value in scope["headers"]}
        query = parse_qs(scope.get("query_string", b"").decode("latin-1"))
        refusal = self._refusal(scope, headers, query)
        if refusal is not None:
            await self._refuse(scope, receive, send, refusal)
            return
        if scope["type"] == "http" and scope["path"] == "/" and "token" in query:
            response = RedirectResponse("/", 303)
            response.set_cookie(self._cookie, self._token, httponly=True, samesite="strict", max_age=30 * 86400)
            await response(scope, receive, _with_headers(send))
            return
        await self._app(scope, receive, _with_headers(send))

    def _refusal(self, scope: Scope, headers: dict[str, str], query: dict[str, list[str]]) -> str | None:
        host = headers.get("host", "")
        if self._hosts is not None and host not in self._hosts:
            return f"this server is not {host[:100]!r}"
        origin = headers.get("origin")
        asks_to_act = scope["type"] == "websocket" or scope["method"] not in _SAFE
        if (origin is None and asks_to_act) or (origin is not None and origin.partition("://")[2] != host):
            return "this request does not come from the page"
        given = query.get("token", [""])[0] or self._from_cookie(headers.get("cookie", ""))
        if not hmac.compare_digest(given.encode("utf-8", "replace"), self._token.encode()):
            return "the token is missing from the address: open the address that `sam3ray app` printed when it started"
        return None

    def _from_cookie(self, header: str) -> str:
        try:
            found = SimpleCookie(header).get(self._cookie)
        except CookieError:
            return ""
        return found.value if found is not None else ""

    async def _refuse(self, scope: Scope, receive: Receive, send: Send, why: str) -> None:
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 4403, "reason": why[:100]})
            return
        await PlainTextResponse(f"Refused: {why}.\n", 403)(scope, receive, _with_headers(send))


def _with_headers(send: Send) -> Send:
    async def sender(message: Message) -> None:
        if message["type"] == "http.response.start":
            names = {name.lower() for name, _ in message["headers"]}
            extra = [each for each in _HEADERS if each[0] not in names]
            if b"cache-control" not in names:
                extra.append((b"cache-control", b"no-store"))
            message["headers"] = [*message["headers"], *extra]
        await send(message)

    return sender
