"""A server of scripts in a process of its own: `python server_process.py STORE`.

It prints its address when it serves, and ends with its standard input.
"""

import asyncio
import sys
from datetime import timedelta

import outlast
from outlast_script import ScriptService


async def main(store: str) -> None:
    config = outlast.ServerConfig(
        store=store,
        listen="127.0.0.1:0",
        engine=outlast.EngineSettings(
            lease=timedelta(seconds=1), poll_interval=timedelta(milliseconds=200)
        ),
    )
    async with outlast.Server(services=[ScriptService()], config=config) as server:
        print(server.address, flush=True)  # noqa: T201
        await asyncio.to_thread(sys.stdin.read)
        server.hurry()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
