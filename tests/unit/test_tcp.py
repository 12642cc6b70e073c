"""Ports that are kept for several processes, and nobody else."""

import socket
from contextlib import ExitStack

import pytest

from outlast.domain.errors import ConfigurationError
from outlast.server.tcp import check_port, shared_port


def listening(address, *options):
    """Return a socket that listens on an address, as gRPC makes it."""
    host, _, port = address.rpartition(":")
    server = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        for option in (socket.SO_REUSEADDR, *options):
            server.setsockopt(socket.SOL_SOCKET, option, 1)
        server.bind((host.strip("[]"), int(port)))
        server.listen()
    except OSError:
        server.close()
        raise
    return server


@pytest.mark.parametrize("listen", ["127.0.0.1:0", "[::1]:0", "localhost:0"])
def test_a_free_port_is_taken_for_those_who_share_it(listen):
    with shared_port(listen) as address, ExitStack() as stack:
        host, _, port = address.rpartition(":")
        assert host == listen.rpartition(":")[0]
        assert int(port) > 0
        if host != "localhost":
            for _ in range(2):
                stack.enter_context(listening(address, socket.SO_REUSEPORT))


def test_who_does_not_share_is_refused_and_no_connection_comes_to_who_only_keeps_the_port():
    with shared_port("127.0.0.1:0") as address:
        port = int(address.rpartition(":")[2])
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))
        for _ in range(2):  # after the first one has gone, too
            with (
                listening(address, socket.SO_REUSEPORT),
                pytest.raises(ConfigurationError, match="Address already in use"),
            ):
                check_port(address)
            with pytest.raises(OSError, match="Address already in use"):
                listening(address)
    check_port(address)


def test_a_port_with_connections_that_are_being_forgotten_can_be_shared_again():
    with shared_port("127.0.0.1:0") as address, listening(address, socket.SO_REUSEPORT) as server:
        caller = socket.create_connection(server.getsockname())
        callee, _ = server.accept()
        callee.close()  # who closes first has it in TIME_WAIT
        assert caller.recv(1) == b""
        caller.close()
    with shared_port(address) as again:
        assert again == address
