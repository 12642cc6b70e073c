"""Ends a group of processes with the process that it works for."""

import os
import select
import signal


def guard_group(parent: int) -> None:
    """Have all of this process group killed once `parent`, or this process, has ended.

    That is the work of a child process. A thread could not do it while an extension
    keeps the interpreter to itself, and a signal at the death of the parent would end
    this process only, and not what it has started. The guard is in the group: nobody
    else is given its id meanwhile, and who kills the group kills the guard.

    Standard input must be a pipe that the parent writes to. Where processes cannot be
    watched, that pipe alone says that the parent is gone. Call it before there are
    threads.
    """
    ends = _watched(os.getpid(), parent)
    if os.getppid() != parent:  # it ended before it was watched
        os._exit(1)
    if os.fork() == 0:
        _kill_in_the_end(ends)
    for end in ends:
        os.close(end)


def _watched(*processes: int) -> list[int]:
    """Return descriptors that become readable when the processes end."""
    if not hasattr(os, "pidfd_open"):
        return []
    try:
        return [os.pidfd_open(process) for process in processes]
    except OSError:  # an older kernel, or one that ended
        return []


def _kill_in_the_end(ends: list[int]) -> None:
    try:
        os.closerange(1, 3)  # what others read from must end with who writes there
        poll = select.poll()
        poll.register(0, 0)  # no more than that the other side is gone
        for end in ends:
            poll.register(end, select.POLLIN)
        poll.poll()
    finally:
        os.killpg(0, signal.SIGKILL)
