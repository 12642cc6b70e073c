"""The checker finds each kind of anomaly, and nothing in a history that is as it should be."""

from dataclasses import replace

import pytest

from tests.chaos.checker import TAKEOVER_BOUND_SECONDS, WAIT_BOUND_SECONDS, check
from tests.chaos.history import Call, Entry, History, Outage, Snapshot
from tests.chaos.servers import CONCURRENCY

NAME = "clients/1/operations/a"
OTHER = "clients/1/operations/b"
PENDING = Snapshot(NAME, "PENDING", 0, update_time=1, content=b"pending")
RUNNING = Snapshot(NAME, "RUNNING", 1, update_time=2, content=b"running")
DONE = Snapshot(NAME, "SUCCEEDED", 2, update_time=9, says="run-2 x", content=b"done")


def entry(event, moment, attempt=1, **fields):
    fields = {"epoch": attempt} | fields
    return Entry(event, moment, 1, f"run-{attempt}", NAME, "id", attempt, **fields)


def call(kind, began, ended, *snapshots, **fields):
    if kind == "start":
        fields.setdefault("request_id", "id")
    elif kind != "list":
        fields.setdefault("name", NAME)
    return Call(kind, "one", began, ended, snapshots=snapshots, **fields)


START = call("start", 0, 1, PENDING)
CALLS = [
    call("start", 0, 0.5, code="UNAVAILABLE"),
    START,
    call("get", 2, 3, RUNNING),
    call("wait", 2, 20, code="DEADLINE_EXCEEDED"),
    call("wait", 3, 9, DONE),
    call("list", 9.5, 10, DONE, name="clients/1"),
    call("cancel", 10, 11),
    call("get", 11, 12, DONE),
]
ENTRIES = [
    entry("began", 1.5),
    entry("ran", 1.6, key="0", value="x"),
    entry("got", 1.7, key="0", value="x"),
    entry("began", 4, attempt=2),
    entry("got", 5, attempt=2, key="0", value="x"),
    entry("ended", 8, attempt=2, value="run-2 x"),
]
OUTAGES = [Outage("one", "pause", 9, 20)]
HISTORY = History(CALLS, ENTRIES, OUTAGES, {NAME: DONE})


def with_calls(*calls):
    return replace(HISTORY, calls=[*CALLS, *calls])


def with_entries(*entries):
    return replace(HISTORY, entries=[*ENTRIES, *entries])


def ending(**changes):
    """Return a history whose operation ends otherwise, as all are told."""
    end = replace(DONE, **changes)
    calls = [
        replace(it, snapshots=[end if each is DONE else each for each in it.snapshots])
        for it in CALLS
    ]
    return replace(HISTORY, calls=calls, final={NAME: end})


def rules(history):
    return {anomaly.rule for anomaly in check(history)}


def test_a_history_as_it_should_be_has_no_anomaly():
    assert check(HISTORY) == []


GONE = {"code": "NOT_FOUND"}
LATE = 9 + WAIT_BOUND_SECONDS + 0.1
ANOMALIES = {
    "a lost operation": ("lost operation", replace(HISTORY, final={})),
    "one that never ends": (
        "lost operation",
        replace(HISTORY, calls=[START], entries=ENTRIES[:1], final={NAME: RUNNING}),
    ),
    "one that is hidden and never ends": (
        "lost operation",
        replace(HISTORY, calls=[START, call("delete", 2, 3)], final={}, unfinished=[NAME]),
    ),
    "one that is not found for a while": ("lost operation", with_calls(call("get", 5, 6, **GONE))),
    "a deletion undone": (
        "deletion undone",
        with_calls(call("delete", 12, 13), call("get", 14, 15, DONE)),
    ),
    "a request accepted twice": (
        "one request, two operations",
        with_calls(
            call("start", 13, 14, replace(PENDING, name=OTHER)),
            call("delete", 15, 16, name=OTHER),
        ),
    ),
    "a request that runs twice": (
        "one request, two operations",
        with_entries(replace(ENTRIES[0], name=OTHER)),
    ),
    "a changed result": (
        "changed result",
        with_calls(call("get", 12, 13, replace(DONE, content=b"other"))),
    ),
    "two completions": (
        "changed result",
        with_calls(call("get", 12, 13, replace(DONE, state="FAILED", content=b"failed"))),
    ),
    "another result in the end": (
        "changed result",
        replace(HISTORY, final={NAME: replace(DONE, content=b"other")}),
    ),
    "done undone": (
        "done undone",
        with_calls(call("get", 12, 13, replace(RUNNING, update_time=9))),
    ),
    "an older state": (
        "went back",
        with_calls(call("get", 3.5, 4, replace(RUNNING, update_time=1))),
    ),
    "too many attempts told": ("attempts over the maximum", ending(max_attempts=1)),
    "too many attempts run": (
        "attempts over the maximum",
        with_entries(entry("failed", 6, attempt=2, max_attempts=1)),
    ),
    "a run after the end": ("ran after its end", with_entries(entry("began", 13, attempt=3))),
    "a lease that is run twice": (
        "lease run twice",
        with_entries(replace(ENTRIES[3], run="another")),
    ),
    "a recorded step executed again": (
        "recorded step executed again",
        with_entries(entry("ran", 5, attempt=2, key="0", value="y")),
    ),
    "a recorded step changed": (
        "recorded step changed",
        with_entries(entry("got", 5, attempt=2, key="0", value="y")),
    ),
    "a result that no handler gave": ("result of nobody", ending(says="run-2 y")),
    "the result of an earlier attempt": ("result of nobody", ending(attempt=3)),
    "an error that no handler raised": ("result of nobody", ending(state="FAILED", says="oh")),
    "a cancellation that nobody asked for": (
        "cancelled by nobody",
        replace(
            HISTORY, calls=[START], final={NAME: replace(DONE, state="CANCELLED", content=b"c")}
        ),
    ),
    "giving up early": ("given up early", ending(state="FAILED", dead_letter=True)),
    "a waiter missed": (
        "waiter missed",
        replace(with_calls(call("wait", 3, LATE, DONE)), outages=[]),
    ),
    "a waiter missed by the only one who asks": (
        "waiter missed",
        replace(HISTORY, calls=[START, call("wait", 3, LATE, DONE)], outages=[]),
    ),
    "a waiter left without an answer": (
        "waiter missed",
        replace(HISTORY, outages=[replace(OUTAGES[0], kind="kill", server="another")]),
    ),
    "one missing in a list": ("not listed", with_calls(call("list", 4, 5, name="clients/1"))),
    "one listed twice": (
        "listed twice",
        with_calls(call("list", 10, 12, DONE, DONE, name="clients/1")),
    ),
    "an answer that makes no sense": (
        "unexpected answer",
        with_calls(call("get", 4, 5, code="INTERNAL")),
    ),
    "a fault": ("fault", replace(HISTORY, faults=["the file is damaged"])),
}


CANCEL = call("cancel", 4.5, 4.6)
KILLED = replace(HISTORY, outages=[*OUTAGES, Outage("one", "kill", 1.8, 2.2, process=1)])


def taken_over_at(moment):
    """Return a history in which another process runs again what one that was killed ran."""
    began, got, ended = (replace(it, process=2, moment=moment) for it in ENTRIES[3:])
    return replace(KILLED, entries=[*ENTRIES[:3], began, got, replace(ended, moment=8)])


def failed_until(moment):
    """Return a history in which the first attempt fails, and the second begins then."""
    began = replace(ENTRIES[3], moment=moment)
    return replace(HISTORY, entries=[*ENTRIES[:3], entry("failed", 3), began, *ENTRIES[4:]])


def sharing(accepted, key="key"):
    """Return a history in which another operation had an exclusive key from some moment on."""
    other = replace(DONE, name=OTHER, update_time=9)
    began = [replace(it, value="key") if it.event == "began" else it for it in ENTRIES]
    mine = [replace(it, name=OTHER, request_id="other") for it in ENTRIES]
    mine = [replace(it, value=key) if it.event == "began" else it for it in mine]
    start = call("start", accepted - 0.5, accepted, replace(other, state="PENDING"))
    calls = [it for it in CALLS if it.kind != "list"]
    return replace(
        HISTORY,
        calls=[*calls, replace(start, request_id="other")],
        entries=[*began, *mine],
        final={NAME: DONE, OTHER: other},
    )


crowd = [
    replace(ENTRIES[0], run=f"run of {number}", epoch=10 + number)
    for number in range(CONCURRENCY + 1)
]

ANOMALIES |= {
    "a cancel of which the handler does not hear": (
        "cancel missed",
        with_calls(CANCEL),
    ),
    "a takeover that comes late": (
        "taken over late",
        taken_over_at(1.8 + TAKEOVER_BOUND_SECONDS + 0.1),
    ),
    "a retry that does not wait": ("retried early", failed_until(3.1)),
    "more at a time than may be": ("too many at a time", with_entries(*crowd)),
    "a key that two have": ("exclusive key shared", sharing(7)),
    "a list of what is elsewhere": (
        "listed elsewhere",
        with_calls(call("list", 12, 13, DONE, name="clients/2")),
    ),
    "a refusal of what was started": (
        "refused after its start",
        with_calls(call("start", 12, 13, code="ABORTED")),
    ),
}


@pytest.mark.parametrize(("rule", "history"), ANOMALIES.values(), ids=ANOMALIES.keys())
def test_the_checker_finds(rule, history):
    assert rules(history) == {rule}


LEGAL = {
    "a cancel that is ignored": replace(
        with_calls(CANCEL), entries=[*ENTRIES[:5], entry("ignored", 5, attempt=2), ENTRIES[5]]
    ),
    "a cancel while the database is away": replace(
        with_calls(CANCEL), outages=[*OUTAGES, Outage("postgres", "crash", 4.6, 8)]
    ),
    "a takeover in time": taken_over_at(1.8 + TAKEOVER_BOUND_SECONDS - 0.1),
    "a takeover after a time without a database": replace(
        taken_over_at(8), outages=[*KILLED.outages, Outage("postgres", "crash", 2, 7.9)]
    ),
    "a retry that waits": failed_until(3.3),
    "as many at a time as may be": with_entries(
        entry("stopped", 9), entry("stopped", 9, attempt=2), *crowd[1:]
    ),
    "a key that one has after the other": sharing(8.5),
    "two keys": sharing(7, "another key"),
    "a key that another has": with_calls(
        call("start", 12, 13, code="ABORTED", request_id="another")
    ),
    "a deletion": replace(
        with_calls(call("delete", 12, 13), call("get", 14, 15, **GONE)), final={}
    ),
    "a deletion of which no answer came": replace(
        with_calls(
            call("delete", 12, 13, code="UNAVAILABLE"),
            call("delete", 14, 15, **GONE),
            call("list", 16, 17, name="clients/1"),
        ),
        final={},
    ),
    "an attempt that was given back": with_entries(
        entry("stopped", 6, attempt=2), replace(ENTRIES[3], run="another", epoch=3)
    ),
    "an attempt that was lost and does not count": with_entries(
        replace(ENTRIES[3], run="another", epoch=3)
    ),
    "a step whose result was lost": replace(
        HISTORY, entries=[*ENTRIES[:2], entry("ran", 1.9, key="0", value="y"), *ENTRIES[3:]]
    ),
    "a step that a zombie begins": with_entries(
        entry("got", 6, attempt=2, key="1", value="y"), entry("ran", 7, key="1", value="z")
    ),
    "a look that began before the end": with_calls(call("get", 8, 12, RUNNING)),
    "a dead letter": ending(state="FAILED", dead_letter=True, max_attempts=2),
    "a cancellation": ending(state="CANCELLED", says="cancelled"),
    "one listed before it was known": with_calls(call("list", 0.1, 0.9, name="clients/1")),
}


@pytest.mark.parametrize("history", LEGAL.values(), ids=LEGAL.keys())
def test_the_checker_lets_pass(history):
    assert check(history) == []


def test_a_timeline_tells_all_that_is_known_of_an_operation_in_order():
    told = list(HISTORY.timeline(NAME))
    assert [float(line.split()[0]) for line in told] == sorted(float(it.split()[0]) for it in told)
    assert any("get at one, OK" in line for line in told)
    assert any("handler ran 0 x (process 1" in line for line in told)
    assert any("pause of one until 20" in line for line in told)
    assert list(HISTORY.timeline(OTHER)) == []
