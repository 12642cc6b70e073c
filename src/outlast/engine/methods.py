"""What the engine knows of a method: how to run it, and by which rules."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta

from outlast.domain.checks import require, require_count, require_time
from outlast.domain.status import Payload
from outlast.engine.context import ExecutionContext
from outlast.engine.retry import RetryPolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """A long-running method."""

    name: str
    """`package.Service/Method`."""
    run: Callable[[Payload, ExecutionContext], Awaitable[Payload]]
    """Do the work for a request, under a context; return the response."""
    metadata_type: str
    """The type URL of the metadata message."""
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    timeout: timedelta | None = None
    retention: timedelta = timedelta(days=30)
    concurrency: int | None = None
    """How many of its operations this process runs at the same time; None for no own limit."""
    max_running: int | None = None
    """How many all processes on the store together run at the same time; None for any number."""
    max_pending: int | None = None
    """How many of its operations may wait for a worker; None for no own limit."""

    def __post_init__(self) -> None:
        check_limits(
            self.name,
            self.retry,
            self.timeout,
            self.retention,
            concurrency=self.concurrency,
            max_running=self.max_running,
            max_pending=self.max_pending,
        )


def check_limits(
    where: str,
    retry: RetryPolicy,
    timeout: timedelta | None,
    retention: timedelta,
    **counts: int | None,
) -> None:
    """Raise ConfigurationError, which names the place, for rules that cannot be followed."""
    require(f"{where}: retry", retry, RetryPolicy, "a RetryPolicy")
    if timeout is not None:
        require_time(f"{where}: timeout", timeout)
    require_time(f"{where}: retention", retention)
    for name, count in counts.items():
        if count is not None:
            require_count(f"{where}: {name}", count)
