"""Connections of both clients by httpx: options, timeouts, and translation of errors."""

from __future__ import annotations

import os
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import httpx

from polytask_client.errors import BadResponse, InvalidArgument, OutOfTime, PolytaskError, Unreachable

DEFAULT_URL = "http://127.0.0.1:8000"

TRANSPORT_ERRORS = (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError)
"""What sending may raise: httpx passes some errors of sockets and of host names on."""

_CONNECT_S = 5.0
"""Limit for connecting, so that a host that does not answer leaves time for another try at another address."""


MAX_RESPONSE_BYTES = 256 * 1024 * 1024
"""Bytes of a response, decompressed, above which it is not read: many times what a service sends."""


def connection_options(url: str, api_key: str | None) -> dict[str, Any]:
    """The arguments of an httpx client for a service. The default key is that of POLYTASK_API_KEY.

    Raises InvalidArgument for an address or a key that cannot be one.
    """
    try:
        address = httpx.URL(url)
    except (httpx.InvalidURL, TypeError, ValueError) as error:
        raise InvalidArgument(f"{url!a} is not an address of a service: {error}") from None
    if address.scheme not in {"http", "https"} or not address.host:
        raise InvalidArgument(f"{url!a} is not an address of a service, which is like {DEFAULT_URL}")
    key = os.environ.get("POLYTASK_API_KEY", "") if api_key is None else api_key
    if not isinstance(key, str) or not (key.isascii() and key.isprintable()):
        raise InvalidArgument("the key has characters that no key has, such as a line break; give it as it was made")
    return {
        "base_url": address,
        "headers": {"User-Agent": _user_agent()} | ({"Authorization": f"Bearer {key}"} if key else {}),
        # The caller's concurrency decides on the number of connections.
        "limits": httpx.Limits(max_connections=None, max_keepalive_connections=None),
    }


@cache
def _user_agent() -> str:
    try:
        return f"polytask-client/{version('polytask-client')}"
    except PackageNotFoundError:  # from a source tree that is not installed
        return "polytask-client"


def timeouts(seconds: float) -> httpx.Timeout:
    """The timeouts of httpx for a try of `seconds`: every step may take all of them, connecting at most `_CONNECT_S`."""
    return httpx.Timeout(seconds, connect=min(seconds, _CONNECT_S))


def too_large(url: httpx.URL) -> BadResponse:
    """The error of a response over MAX_RESPONSE_BYTES."""
    return BadResponse(
        f"the response of {url} has more than {MAX_RESPONSE_BYTES // 2**20} MiB; is it a Polytask service?"
    )


def translate_error(error: Exception, url: httpx.URL) -> PolytaskError:
    """The PolytaskError for one of TRANSPORT_ERRORS."""
    translated = _translate(error, url)
    translated.__cause__ = error
    return translated


def _translate(error: Exception, url: httpx.URL) -> PolytaskError:
    if isinstance(error, httpx.DecodingError):
        return BadResponse(f"the response of {url} cannot be decompressed: {error}")
    if isinstance(error, httpx.LocalProtocolError | httpx.UnsupportedProtocol | httpx.InvalidURL | ValueError):
        return InvalidArgument(f"nothing can be sent to {url}: {error}")
    if isinstance(error, httpx.TimeoutException) and not isinstance(error, httpx.ConnectTimeout):
        return out_of_time(url)
    return Unreachable(f"no answer from {url}: {str(error) or type(error).__name__}")


def out_of_time(url: httpx.URL) -> OutOfTime:
    """The error of a try that did not end in time."""
    return OutOfTime(f"{url} did not answer by the deadline")
