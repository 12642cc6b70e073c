"""What this process knows of the operations that it runs."""

from collections import OrderedDict
from collections.abc import Iterable, Mapping

from outlast.domain.operation import Lease, State
from outlast.stores.changeset import Stored

_MAX_RECORDS = 4096


class HeldRecords:
    """The records of running operations, as transactions of this process have left them.

    Another process may have changed them since, and what is written by them has to make
    sure that it has not: every change that a reader sees gives a record a new revision. The
    lease alone is renewed without one, so `ready_time` is not to be gone by.
    """

    def __init__(self) -> None:
        self._records: OrderedDict[str, Stored] = OrderedDict()

    def find(self, lease: Lease) -> Stored | None:
        """Return the visible record that has a lease, if it is known."""
        known = self._records.get(lease.name)
        if known is None or known.operation.lease_epoch != lease.epoch or known.operation.deleted:
            return None
        return Stored(known.id, known.operation)

    def learn(self, stored: Mapping[str, Stored | None]) -> None:
        """Take in what has been committed."""
        for name, record in stored.items():
            if record is not None and record.operation.state is State.RUNNING:
                self._records[name] = record
                self._records.move_to_end(name)
            else:
                self._records.pop(name, None)
        while len(self._records) > _MAX_RECORDS:
            self._records.popitem(last=False)

    def forget(self, names: Iterable[str]) -> None:
        """Know nothing of operations any more."""
        for name in names:
            self._records.pop(name, None)
