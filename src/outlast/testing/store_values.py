"""What the state machine draws from."""

from datetime import timedelta

from hypothesis import strategies as st

from outlast.domain.listing import Conditions
from outlast.domain.operation import State
from outlast.domain.status import Code, Payload, Status
from outlast.domain.transitions import Cancelled, Failed, Outcome, Released, Retry, Succeeded

METHODS = ("example.v1.Books/Bind", "example.v1.Books/Print")
SLOTS = ({METHODS[0]: 3, METHODS[1]: 3}, {METHODS[0]: 1, METHODS[1]: 2}, {METHODS[0]: 2})
PARENTS = ("", "shelves/1", "shelves/1/books/1")
PRINCIPALS = ("", "ada")

delays = st.sampled_from([0, 0, 0, 2, 5]).map(lambda it: timedelta(seconds=it))
leases = st.sampled_from([1, 3, 10]).map(lambda it: timedelta(seconds=it))
payloads = st.builds(Payload, st.sampled_from(["", "example.v1.Book"]), st.binary(max_size=3))
statuses = st.builds(Status, st.sampled_from([Code.INTERNAL, Code.ABORTED]), st.just("oh"))
outcomes: st.SearchStrategy[Outcome] = st.one_of(
    st.builds(Succeeded, payloads),
    st.builds(Failed, statuses, st.booleans()),
    st.builds(Cancelled),
    st.builds(Retry, statuses, delays),
    st.builds(Released),
)
operations = st.fixed_dictionaries(
    {
        "parent": st.sampled_from(PARENTS),
        "principal": st.sampled_from(PRINCIPALS),
        "method": st.sampled_from(METHODS),
        "request_id": st.sampled_from(["", "", "r", "s"]),
        "request_digest": st.sampled_from([b"d", b"d", b"e"]),
        "exclusive_key": st.sampled_from(["", "", "", "k"]),
        "max_attempts": st.integers(1, 3),
        "timeout": st.none() | st.just(timedelta(seconds=12)),
        "retention": st.sampled_from([0, 5, 1000, 1000]).map(lambda it: timedelta(seconds=it)),
        "delay": delays,
    }
)
distrusts = st.sampled_from([0, 0, 0, 2, 1000]).map(lambda it: timedelta(seconds=it))
"""How much earlier than now a lease must have run out to be lost."""
limits = st.sampled_from(
    [{}, {}, {}, {"max_pending": 0}, {"max_pending": 3}, {"max_pending_in_method": 2}]
)
max_running = st.sampled_from(
    [{}, {}, {METHODS[0]: 1}, {METHODS[0]: 2, METHODS[1]: 1}, {METHODS[1]: 3}]
)
"""How many may run of some methods, over all workers."""
conditions = st.builds(
    Conditions,
    st.none() | st.frozensets(st.sampled_from(State)),
    st.none() | st.sampled_from(METHODS),
    st.none() | st.booleans(),
)
