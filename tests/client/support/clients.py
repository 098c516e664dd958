"""Both clients behind one interface, so that each test is a test of both."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncGenerator, Callable, Generator
from typing import Any

from polytask_client import AsyncClient, Client

Use = Callable[[Any], Any]
Take = Callable[..., Any]


def blocking(url: str, use: Use, **options: Any) -> Any:
    """The result of `use` on a `Client`; a stream as a list."""
    with Client(url, **options) as client:
        result = use(client)
        return list(result) if isinstance(result, Generator) else result


def on_asyncio(url: str, use: Use, **options: Any) -> Any:
    """The result of `use` on an `AsyncClient`; a stream as a list."""

    async def run() -> Any:
        async with AsyncClient(url, **options) as client:
            result = use(client)
            if isinstance(result, AsyncGenerator):
                return [answer async for answer in result]
            return await result if inspect.isawaitable(result) else result

    return asyncio.run(run())
