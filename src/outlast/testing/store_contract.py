"""The contract suite: what every `OperationStore` must pass.

A store's test subclasses it and gives the fixture `store`:

    class TestMyStore(StoreContract):
        @pytest.fixture
        async def store(self, clock):
            async with MyStore.open(clock=clock) as store:
                yield store

A store that several clients can open at the same time gives `other` as well, a
second client of the same operations. The tests need pytest and pytest-asyncio, which
the extra `testing` installs. They are async; run them with pytest-asyncio in its auto
mode, and with `pytest.register_assert_rewrite("outlast.testing")` in the conftest,
which makes failures readable.
"""

from outlast.testing.contract.claims import (
    ClaimContract,
    ClaimEndsContract,
    NextReadyTimeContract,
)
from outlast.testing.contract.endings import (
    CancelContract,
    DeleteContract,
    ExpireContract,
    FinishContract,
)
from outlast.testing.contract.feed import ChangesContract
from outlast.testing.contract.fencing import FencingContract
from outlast.testing.contract.history import AttemptsContract, StatsContract
from outlast.testing.contract.inserts import (
    ExclusiveContract,
    InsertContract,
    QueueLimitContract,
    RequestIdContract,
)
from outlast.testing.contract.leases import ProgressContract, RenewContract, StepContract
from outlast.testing.contract.limits import MaxRunningContract
from outlast.testing.contract.reads import ListContract, ReadContract
from outlast.testing.contract.reaping import ReapContract
from outlast.testing.contract.redrives import RedriveContract
from outlast.testing.contract.suspects import SuspectContract


class StoreContract(
    InsertContract,
    RequestIdContract,
    ExclusiveContract,
    QueueLimitContract,
    RedriveContract,
    ReadContract,
    ListContract,
    ClaimContract,
    NextReadyTimeContract,
    ClaimEndsContract,
    SuspectContract,
    MaxRunningContract,
    RenewContract,
    ProgressContract,
    StepContract,
    FencingContract,
    FinishContract,
    CancelContract,
    DeleteContract,
    ExpireContract,
    ReapContract,
    AttemptsContract,
    StatsContract,
    ChangesContract,
):
    """Tests every sentence of the contract in `outlast.ports`."""
