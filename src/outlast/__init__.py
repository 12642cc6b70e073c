"""google.longrunning operations for gRPC services in Python: durable, retried, cancellable."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from outlast.domain.errors import ConfigurationError as ConfigurationError
    from outlast.domain.errors import InvalidArgumentError as InvalidArgumentError
    from outlast.domain.errors import OutlastError as OutlastError
    from outlast.domain.errors import StoreOpenError as StoreOpenError
    from outlast.domain.status import Code as Code
    from outlast.engine.retry import RetryPolicy as RetryPolicy
    from outlast.engine.settings import EngineSettings as EngineSettings
    from outlast.rpc.context import OperationContext as OperationContext
    from outlast.rpc.errors import OperationFailed as OperationFailed
    from outlast.rpc.errors import ServiceError as ServiceError
    from outlast.rpc.long_running import long_running as long_running
    from outlast.server.app import Server as Server
    from outlast.server.config import ServerConfig as ServerConfig
    from outlast.server.config import TlsFiles as TlsFiles
    from outlast.server.operations import Operations as Operations

__version__ = "0.1.0"

__all__ = [
    "Code",
    "ConfigurationError",
    "EngineSettings",
    "InvalidArgumentError",
    "OperationContext",
    "OperationFailed",
    "Operations",
    "OutlastError",
    "RetryPolicy",
    "Server",
    "ServerConfig",
    "ServiceError",
    "StoreOpenError",
    "TlsFiles",
    "long_running",
]

# Imported when first used: gRPC takes longer to load than `outlast --help` may.
_HOMES = {
    "Code": "outlast.domain.status",
    "ConfigurationError": "outlast.domain.errors",
    "EngineSettings": "outlast.engine.settings",
    "InvalidArgumentError": "outlast.domain.errors",
    "OperationContext": "outlast.rpc.context",
    "OperationFailed": "outlast.rpc.errors",
    "Operations": "outlast.server.operations",
    "OutlastError": "outlast.domain.errors",
    "RetryPolicy": "outlast.engine.retry",
    "Server": "outlast.server.app",
    "ServerConfig": "outlast.server.config",
    "ServiceError": "outlast.rpc.errors",
    "StoreOpenError": "outlast.domain.errors",
    "TlsFiles": "outlast.server.config",
    "long_running": "outlast.rpc.long_running",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value
