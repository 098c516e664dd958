"""Engine kill under load: the outcome of every request, and the time until the service is ready again.

    python -m benchmarks.serving.engine_kill DATA [--seconds 30] [--kills 2]

Frontends stay up, so no connection breaks: a request that waits gets 503 at once, and so does what comes until the new
engine is ready. Clients of a closed loop try again with the next request.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Annotated

import httpx
import psutil
import typer

from benchmarks.serving import results
from benchmarks.serving.load import LOST, closed_loop
from benchmarks.serving.servers import Server, polytask
from benchmarks.serving.systems import find
from benchmarks.serving.workload import read_rows

_CLIENTS = 64
_ANSWERED = {200, 429, 503}
_SETTLING_S = 5.0
_EVERY_S = 0.02


def main(
    data: Annotated[Path, typer.Argument(help="The data folder that the checkpoint was trained from.")],
    seconds: Annotated[float, typer.Option(help="Of the load.")] = 30,
    kills: Annotated[int, typer.Option(help="How often the engine is killed meanwhile.")] = 2,
    frontends: Annotated[int, typer.Option(help="HTTP processes.")] = 2,
    model: Annotated[str, typer.Option(help="The version to serve.")] = "demo",
) -> None:
    """Measures, prints a table and adds a line to results/engine_kill.jsonl."""
    requests = [find("polytask").request([row]) for row in read_rows(model, data, 8)]

    async def killed(server: Server) -> list[float]:
        return [await _kill(server) for _ in range(kills)]

    async def both(server: Server) -> tuple[list[float], dict[int, int]]:
        load = asyncio.create_task(closed_loop(server.port, requests, _CLIENTS, seconds, 0))
        back = await killed(server)
        return back, (await load).statuses

    with polytask(model, "--frontends", str(frontends)) as server:
        back_s, statuses = asyncio.run(both(server))
    line = {
        "statuses": statuses,
        "neither_answered_nor_refused": sum(count for status, count in statuses.items() if status not in _ANSWERED),
        "unanswered": statuses.get(LOST, 0),
        "back_after_s": back_s,
    }
    results.append("engine_kill", [line])
    results.show(
        f"kill -9 of the engine, {_CLIENTS} clients",
        ["", "", "goal"],
        [
            ("statuses", str(statuses), "200, 429 and 503 only"),
            ("neither answered nor refused", str(line["neither_answered_nor_refused"]), "0"),
            ("ready again after, s", ", ".join(f"{one:.1f}" for one in back_s), "10 beyond loading the model"),
        ],
    )


async def _kill(server: Server) -> float:
    """Kills the engine during the load. Returns the seconds until the service is ready."""
    await asyncio.sleep(_SETTLING_S)
    (engine,) = (child for child in server.process.children() if "polytask.service.processes.engine" in child.cmdline())
    engine.kill()
    killed = time.perf_counter()
    await asyncio.to_thread(psutil.wait_procs, [engine], timeout=5)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}", timeout=60) as client:
        # Until the frontends have noticed that it is gone they still say that they are ready.
        await asyncio.sleep(10 * _EVERY_S)
        while (await client.get("/readyz")).status_code != httpx.codes.OK:  # noqa: ASYNC110, nobody would tell us
            await asyncio.sleep(_EVERY_S)
    return time.perf_counter() - killed


if __name__ == "__main__":
    typer.run(main)
