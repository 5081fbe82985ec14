"""Typed client of Goperation, over gRPC.

`Client` has a stub for each service, `v1` all messages, and `error` tells what a failure was.
"""

from . import v1
from ._client import Client
from ._error import Error, Violation, error

__all__ = ["Client", "Error", "Violation", "error", "v1"]
