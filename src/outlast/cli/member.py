"""One of several processes that serve together: what ties it to its supervisor."""

import os
import signal
import socket
import sys
import threading
from dataclasses import dataclass

PROGRAM = "import sys; sys.path[:] = {path!r}; from outlast.cli.member import main; main()"
"""What such a process runs: with the supervisor's `path`, it finds what that has found."""


@dataclass(frozen=True, slots=True)
class Membership:
    """Makes of `outlast serve` one process of several."""

    address: str
    """Where all of them listen, with the real port."""
    link: socket.socket
    """To the supervisor, by which it hears of the start, and its end is noticed."""

    def announce(self, ready_line: str) -> None:
        """Say that this process is ready."""
        self.link.sendall(f"{ready_line}\n".encode())


def main() -> None:
    """Run `outlast serve` with the command line's arguments: the link, the address, its own."""
    from outlast.cli.main import main as outlast  # noqa: PLC0415  # it imports this module

    descriptor, address, *arguments = sys.argv[1:]
    link = socket.socket(fileno=int(descriptor))
    link.set_inheritable(False)
    threading.Thread(target=_stop_with, args=[link], name="outlast-supervisor", daemon=True).start()
    outlast(["serve", *arguments], prog_name="outlast", obj=Membership(address, link))


def _stop_with(supervisor: socket.socket) -> None:
    """Stop this process, in peace, when its supervisor has ended."""
    try:
        while supervisor.recv(1):
            pass  # it says nothing
    finally:
        os.kill(os.getpid(), signal.SIGTERM)
