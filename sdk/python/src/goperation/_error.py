"""What a manager says of a failed call, read from the details of its gRPC status."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status


@dataclass(frozen=True)
class Violation:
    """A field of the request that was refused."""

    field: str
    """Its path, as in the API: `ports[0].port`."""
    description: str
    """What is wrong with it."""


@dataclass(frozen=True)
class Error:
    """All that the manager says of a failed call."""

    code: grpc.StatusCode
    """The gRPC code."""
    message: str
    """What is wrong, for people."""
    reason: str = ""
    """The same as one stable word, `AGENT_NOT_ACTIVE`; empty when the answer is not the manager's."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """Facts that belong to the reason."""
    violations: tuple[Violation, ...] = ()
    """Fields that were refused, all of them."""
    retry_after: timedelta | None = None
    """How long to wait before the next try, if the manager says."""


def error(thrown: grpc.RpcError) -> Error:
    """What the manager said of the failure that a call has raised."""
    if not isinstance(thrown, grpc.Call):
        return Error(grpc.StatusCode.UNKNOWN, str(thrown))
    reason, metadata, retry_after = "", dict[str, str](), None
    violations: list[Violation] = []
    status = rpc_status.from_call(thrown)
    for detail in status.details if status else ():
        info = error_details_pb2.ErrorInfo()
        bad = error_details_pb2.BadRequest()
        retry = error_details_pb2.RetryInfo()
        if detail.Unpack(info):
            reason, metadata = info.reason, dict(info.metadata)
        elif detail.Unpack(bad):
            violations += (Violation(v.field, v.description) for v in bad.field_violations)
        elif detail.Unpack(retry):
            retry_after = retry.retry_delay.ToTimedelta()
    message = thrown.details() or ""
    return Error(thrown.code(), message, reason, metadata, tuple(violations), retry_after)
