"""Ports for servers that are about to start. Imports nothing of the project."""

import itertools
import os
import socket

_FIRST, _COUNT = 20_000, 10_000
_PER_PROCESS = 200


def _numbers() -> itertools.chain[int]:
    """All numbers, which each process begins with at another one."""
    begin = os.getpid() * _PER_PROCESS % _COUNT
    numbers = range(_FIRST, _FIRST + _COUNT)
    return itertools.chain(numbers[begin:], numbers[:begin])


_NUMBERS = itertools.cycle(_numbers())


def free_port() -> int:
    """Return a TCP port of the loopback interface that nobody listens on at this moment.

    It is none that this process was given lately, and none that the system gives to
    connections to elsewhere, of which one could take it before the server has started.
    """
    for port in itertools.islice(_NUMBERS, _COUNT):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise RuntimeError(f"no port from {_FIRST} to {_FIRST + _COUNT - 1} is free")
