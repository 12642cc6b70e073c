"""Work in other processes beside gRPC on uvloop, which starts processes in a way of its own."""

import subprocess
import sys

import pytest

STARTS = 40
PROGRAM = f"""
import asyncio
import os

import grpc
import uvloop
from outlastapi.script.v1 import script_pb2

import outlast
from outlast.engine.processes import ProcessPool
from outlast_script import ScriptService


async def main():
    config = outlast.ServerConfig(store="memory:", listen="127.0.0.1:0")
    async with (
        outlast.Server(services=[ScriptService()], config=config) as server,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        calling = asyncio.create_task(call(channel))
        for _ in range({STARTS}):
            pool = ProcessPool(max_bytes=1024)
            print(await pool.run(os.getpid), flush=True)
            await pool.close()
        calling.cancel()


async def call(channel):
    start = channel.unary_unary("/outlastapi.script.v1.ScriptService/RunScript")
    while True:
        await start(script_pb2.RunScriptRequest().SerializeToString())


uvloop.run(main())
"""


def test_processes_that_start_while_calls_are_answered_do_not_die():
    pytest.importorskip("uvloop")
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=50, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert len(set(ran.stdout.split())) == STARTS
