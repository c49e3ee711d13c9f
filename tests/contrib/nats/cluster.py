"""Three NATS servers that make one cluster, for tests that stop some of them. Calls block as those of `NatsServer`."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from typing import Any, Self

from tests.servers import NatsServer

SERVERS = 3


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody listens on now: routes must be known before the servers start."""
    with ExitStack() as stack:
        found = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in found:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in found]


class Cluster:
    """Servers `n1` to `n3` by name, or the first of them. A stopped one can be restarted: same ports, same store."""

    def __init__(self, started: int = SERVERS) -> None:
        self._stack = ExitStack()
        ports = free_ports(SERVERS)
        routes = ",".join(f"nats://127.0.0.1:{port}" for port in ports)
        self.servers = {}
        for number, port in enumerate(ports[:started], 1):
            arguments = ("-n", f"n{number}", "--cluster_name", "c", "--cluster", f"nats://127.0.0.1:{port}")
            server = NatsServer(*arguments, "--routes", routes)
            self.servers[f"n{number}"] = self._stack.enter_context(server)

    @property
    def urls(self) -> list[str]:
        """Where clients may connect."""
        return [server.url for server in self.servers.values()]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()


def server_of(client: Any) -> str:
    """The name of the server that a client is connected to."""
    return str(client._server_info["server_name"])
