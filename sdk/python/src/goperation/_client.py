"""One channel to a manager, and one typed stub for each of its services."""

from __future__ import annotations

import os
from types import TracebackType

import grpc

from .v1.agent_pb2_grpc import AgentServiceStub
from .v1.bridge_pb2_grpc import BridgeServiceStub
from .v1.cache_pb2_grpc import CacheServiceStub
from .v1.endpoint_pb2_grpc import EndpointServiceStub
from .v1.entity_pb2_grpc import EntityServiceStub
from .v1.port_pb2_grpc import PortServiceStub
from .v1.request_pb2_grpc import RequestServiceStub

_DEFAULT = "127.0.0.1:7999"


class Client:
    """Calls a manager: `Client().agents.ShowAgent(v1.ShowAgentRequest(id=1), timeout=5)`.

    A call without `timeout` waits for as long as the connection lives. Close the client, or use it
    as a context manager.
    """

    def __init__(self, target: str | None = None) -> None:
        """Calls the manager at `target`, else at `$GOP_SERVER`, else on this host."""
        target = target or os.environ.get("GOP_SERVER") or _DEFAULT
        self.channel: grpc.Channel = grpc.insecure_channel(target.removeprefix("http://"))
        self.agents: AgentServiceStub = AgentServiceStub(self.channel)
        self.bridge: BridgeServiceStub = BridgeServiceStub(self.channel)
        self.caches: CacheServiceStub = CacheServiceStub(self.channel)
        self.endpoints: EndpointServiceStub = EndpointServiceStub(self.channel)
        self.entities: EntityServiceStub = EntityServiceStub(self.channel)
        self.ports: PortServiceStub = PortServiceStub(self.channel)
        self.requests: RequestServiceStub = RequestServiceStub(self.channel)

    def close(self) -> None:
        """Ends the channel and the calls that are on it."""
        self.channel.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
