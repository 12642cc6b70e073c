"""Says what in a history must not have happened. It knows the promises, not the program."""

import math
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, combinations
from typing import NamedTuple

from tests.chaos.history import Call, Entry, History, Outage, Snapshot
from tests.chaos.servers import CONCURRENCY, LEASE_SECONDS
from tests.chaos.service import RETRY_DELAY_SECONDS

WAIT_BOUND_SECONDS = 3.0
"""How long after an end a waiting call may be answered: 0.25 s, on a busy machine."""
CANCEL_BOUND_SECONDS = 1.0 + 1.0
"""How long after a cancel a handler may go on that was not told: 1 s, on a busy machine."""
TAKEOVER_BOUND_SECONDS = LEASE_SECONDS + 1.0 + 2.0
"""When what a killed process ran is run again: within a lease and 1 s, on a busy machine."""

_ENDS = {"ended", "failed", "stopped", "broke"}
"""With what a run is over."""
_CLOCKS_DIFFER_SECONDS = 0.05

_NO_ANSWER = {"UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED"}
_ANSWERS = {"OK", "NOT_FOUND"}


@dataclass(frozen=True, slots=True)
class Anomaly:
    """A promise that was broken."""

    rule: str
    subject: str
    """The name of the operation, if it is about one."""
    text: str


class _Seen(NamedTuple):
    """That a caller was told something, in a call between two moments."""

    began: float
    ended: float
    snapshot: Snapshot


class _Indexed:
    """A history, by what the rules ask for."""

    def __init__(self, history: History) -> None:
        self.history = history
        self.accepted: dict[str, float] = {}
        """When the caller first knew of the operation."""
        self.starts: dict[str, list[Call]] = defaultdict(list)
        """Those that were answered, by their request_id."""
        self.deletes: dict[str, list[Call]] = defaultdict(list)
        self.cancelled: dict[str, float] = {}
        """When a caller first asked the operation to stop."""
        self.cancel_known: dict[str, float] = {}
        """When a caller first knew that the operation was asked to stop."""
        self.seen: dict[str, list[_Seen]] = defaultdict(list)
        self.runs: dict[str, list[Entry]] = defaultdict(list)
        for call in history.calls:
            self._index(call)
        for name, snapshot in history.final.items():
            self.seen[name].append(_Seen(math.inf, math.inf, snapshot))
        for entry in history.entries:
            self.runs[entry.name].append(entry)

    def _index(self, call: Call) -> None:
        if call.kind == "delete":
            self.deletes[call.name].append(call)
        elif call.kind == "cancel":
            asked = self.cancelled.get(call.name, math.inf)
            self.cancelled[call.name] = min(call.began, asked)
            if call.code == "OK":
                known = self.cancel_known.get(call.name, math.inf)
                self.cancel_known[call.name] = min(call.ended, known)
        elif call.kind == "start" and call.code == "OK":
            name = call.snapshots[0].name
            self.starts[call.request_id].append(call)
            self.accepted[name] = min(call.ended, self.accepted.get(name, math.inf))
        for snapshot in call.snapshots:
            self.seen[snapshot.name].append(_Seen(call.began, call.ended, snapshot))

    def delete_began(self, name: str) -> float:
        """Return from when on an operation may be gone."""
        return min((call.began for call in self.deletes.get(name, ())), default=math.inf)

    def deleted(self, name: str) -> float:
        """Return from when on an operation must be gone."""
        done = (call.ended for call in self.deletes.get(name, ()) if call.code == "OK")
        return min(done, default=math.inf)

    def known_done(self, name: str) -> float:
        """Return when a caller first knew that an operation had ended."""
        return min((it.ended for it in self.seen[name] if it.snapshot.done), default=math.inf)

    def written(self, name: str) -> float:
        """Return when the handler that gave the result was about to end the operation."""
        final = self.history.final.get(name)
        says = final.says if final is not None else None
        ends = (it for it in self.runs[name] if it.event == "ended")
        return min((it.moment for it in ends if it.value == says), default=math.inf)

    def handlers(self, name: str) -> dict[str, list[Entry]]:
        """Return what each run of an operation wrote down."""
        runs: dict[str, list[Entry]] = defaultdict(list)
        for entry in self.runs[name]:
            runs[entry.run].append(entry)
        return runs


def check(history: History) -> Sequence[Anomaly]:
    """Return every anomaly of a history; none if all promises were kept."""
    indexed = _Indexed(history)
    return [anomaly for rule in _RULES for anomaly in rule(indexed)]


def _nothing_is_lost(index: _Indexed) -> Iterator[Anomaly]:
    for name in index.accepted:
        if name in index.deletes:
            continue
        final = index.history.final.get(name)
        if final is None:
            yield Anomaly("lost operation", name, "was accepted and is not there in the end")
        elif not final.done:
            yield Anomaly("lost operation", name, f"is {final.state} in the end")
    for name in index.history.unfinished:
        yield Anomaly("lost operation", name, "is not done in the file in the end")
    for call in index.history.calls:
        if call.code == "NOT_FOUND" and call.ended < index.delete_began(call.name):
            yield Anomaly("lost operation", call.name, f"{call.kind} did not find it")


def _what_is_deleted_stays_so(index: _Indexed) -> Iterator[Anomaly]:
    for name in index.deletes:
        gone = index.deleted(name)
        if any(it.began > gone for it in index.seen[name]):
            yield Anomaly("deletion undone", name, "was told of after it had been deleted")


def _one_request_one_operation(index: _Indexed) -> Iterator[Anomaly]:
    names: dict[str, set[str]] = defaultdict(set)
    for call in index.history.calls:
        if call.kind == "start" and call.code == "OK":
            names[call.request_id].add(call.snapshots[0].name)
    for entry in index.history.entries:
        names[entry.request_id].add(entry.name)
    for request_id, found in names.items():
        if len(found) > 1:
            text = f"request_id {request_id} gave {sorted(found)}"
            yield Anomaly("one request, two operations", min(found), text)


def _done_is_final(index: _Indexed) -> Iterator[Anomaly]:
    for name, seen in index.seen.items():
        done = sorted((it for it in seen if it.snapshot.done), key=lambda it: it.ended)
        if not done:
            continue
        if len({it.snapshot.content for it in done}) > 1:
            says = sorted({f"{it.snapshot.state}: {it.snapshot.says}" for it in done})
            yield Anomaly("changed result", name, f"was told to have ended with {says}")
        known = done[0].ended
        if any(it.began > known and not it.snapshot.done for it in seen):
            yield Anomaly("done undone", name, "was told not to be done after it had been")


def _nothing_goes_back(index: _Indexed) -> Iterator[Anomaly]:
    for name, seen in index.seen.items():
        told = sorted(seen, key=lambda it: it.ended)
        moments = [it.ended for it in told]
        newest = list(accumulate((it.snapshot.update_time for it in told), max))
        for each in told:
            before = bisect_left(moments, each.began)
            if before and each.snapshot.update_time < newest[before - 1]:
                yield Anomaly("went back", name, "an older state was told after a newer one")
                break


def _attempts_are_bounded(index: _Indexed) -> Iterator[Anomaly]:
    for name, seen in index.seen.items():
        if any(it.snapshot.attempt > it.snapshot.max_attempts for it in seen):
            yield Anomaly("attempts over the maximum", name, "was told to have more attempts")
    for name, entries in index.runs.items():
        if any(entry.attempt > entry.max_attempts for entry in entries):
            yield Anomaly("attempts over the maximum", name, "ran more often")
        final = index.history.final.get(name)
        if final is not None and any(entry.attempt > final.attempt for entry in entries):
            text = f"ran in an attempt after {final.attempt}, in which it had ended"
            yield Anomaly("ran after its end", name, text)


def _a_lease_runs_once(index: _Indexed) -> Iterator[Anomaly]:
    """An attempt that was lost or given back may be run again, but under another lease."""
    for name, entries in index.runs.items():
        begun = Counter(entry.epoch for entry in entries if entry.event == "began")
        for epoch, count in begun.items():
            if count > 1:
                yield Anomaly("lease run twice", name, f"lease {epoch} began {count} times")


def _recorded_steps_stay(index: _Indexed) -> Iterator[Anomaly]:
    """A zombie of an earlier lease may begin a step: nobody tells it before it writes."""
    for name, entries in index.runs.items():
        recorded: dict[str, Entry] = {}
        for entry in entries:
            first = recorded.get(entry.key)
            if entry.event == "ran" and first is not None and entry.epoch >= first.epoch:
                text = f"step {entry.key} ran when its result was recorded"
                yield Anomaly("recorded step executed again", name, text)
            if entry.event == "got" and recorded.setdefault(entry.key, entry).value != entry.value:
                text = f"step {entry.key} had two results"
                yield Anomaly("recorded step changed", name, text)


def _results_have_an_author(index: _Indexed) -> Iterator[Anomaly]:
    """What an operation says was said by the handler, in the attempt that ended it."""
    for name, final in index.history.final.items():
        said = {(it.attempt, it.value) for it in index.runs[name] if it.event == "ended"}
        if final.state == "CANCELLED":
            if name not in index.cancelled:
                yield Anomaly("cancelled by nobody", name, "nobody asked for it")
        elif final.dead_letter:
            if final.attempt < final.max_attempts:
                yield Anomaly("given up early", name, f"after {final.attempt} attempts")
        elif final.done and (final.attempt, final.says) not in said:
            text = f"attempt {final.attempt} did not end with {final.says!r}"
            yield Anomaly("result of nobody", name, text)


def _a_cancel_reaches_the_handler(index: _Indexed) -> Iterator[Anomaly]:
    for name, known in index.cancel_known.items():
        for run in index.handlers(name).values():
            told = (it.moment for it in run if it.event in {"stopped", "ignored"})
            last = min(run[-1].moment, min(told, default=math.inf))
            late = last - known - CANCEL_BOUND_SECONDS
            if late > 0 and late > _time_out(index, "", known, last):
                text = f"a handler was not told for {last - known:.1f} s"
                yield Anomaly("cancel missed", name, text)


def _what_a_killed_process_ran_is_taken_over(index: _Indexed) -> Iterator[Anomaly]:
    """What was lost before as well may be on trial, and has to wait for others."""
    kills = {it.process: it for it in index.history.outages if it.kind == "kill"}
    for name in index.runs:
        runs = sorted(index.handlers(name).values(), key=lambda run: run[0].epoch)
        lost = [run for run in runs if run[0].process in kills and run[-1].event not in _ENDS]
        if lost:
            run = lost[0]
            later = (it for it in runs if it[0].epoch > run[0].epoch)
            again = min((it[0].moment for it in later), default=math.inf)
            if again < index.cancelled.get(name, math.inf):
                yield from _taken_over_late(index, name, kills[run[0].process], again)


def _taken_over_late(index: _Indexed, name: str, kill: Outage, again: float) -> Iterator[Anomaly]:
    """Return an anomaly if a run came too late; that one comes at all is another rule."""
    late = again - kill.began - TAKEOVER_BOUND_SECONDS
    if 0 < late < math.inf and late > _time_out(index, "", kill.began, again):
        text = f"was run again {again - kill.began:.1f} s after a kill of {kill.server}"
        yield Anomaly("taken over late", name, text)


def _retries_wait(index: _Indexed) -> Iterator[Anomaly]:
    for name, entries in index.runs.items():
        failed: dict[int, float] = {}
        for entry in sorted(entries, key=lambda it: it.moment):
            if entry.event == "failed":
                failed.setdefault(entry.attempt, entry.moment)
            if entry.event == "began" and entry.attempt - 1 in failed:
                pause = entry.moment - failed.pop(entry.attempt - 1)
                if pause < RETRY_DELAY_SECONDS - _CLOCKS_DIFFER_SECONDS:
                    yield Anomaly("retried early", name, f"after {pause:.3f} s")


def _processes_keep_their_concurrency(index: _Indexed) -> Iterator[Anomaly]:
    running: dict[int, set[str]] = defaultdict(set)
    told: set[int] = set()
    for entry in index.history.entries:
        runs = running[entry.process]
        if entry.event == "began":
            runs.add(entry.run)
        elif entry.event in _ENDS:
            runs.discard(entry.run)
        if len(runs) > CONCURRENCY and entry.process not in told:
            told.add(entry.process)
            text = f"process {entry.process} ran {len(runs)} operations at a time"
            yield Anomaly("too many at a time", entry.name, text)


def _exclusive_keys_are_not_shared(index: _Indexed) -> Iterator[Anomaly]:
    """Each operation has its key at least from when it was known until it was last known to go on."""
    held: dict[str, list[tuple[float, float, str]]] = defaultdict(list)
    for name, since in index.accepted.items():
        keys = {it.value for it in index.runs[name] if it.event == "began"} - {""}
        seen = [it.began for it in index.seen[name] if not it.snapshot.done]
        written = index.written(name)
        until = max([*seen, written] if written < math.inf else seen, default=-math.inf)
        for key in keys:
            held[key].append((since, until, name))
    for key, times in held.items():
        for first, second in combinations(sorted(times), 2):
            if second[0] < first[1] and second[0] < second[1]:
                yield Anomaly("exclusive key shared", second[2], f"{key} with {first[2]}")


def _no_waiter_is_missed(index: _Indexed) -> Iterator[Anomaly]:
    for call in index.history.calls:
        if call.kind != "wait" or call.code not in {"OK", "DEADLINE_EXCEEDED"}:
            continue
        since = max(min(index.known_done(call.name), index.written(call.name)), call.began)
        late = call.ended - since
        if late <= WAIT_BOUND_SECONDS:
            continue
        if late - _time_out(index, call.server, since, call.ended) > WAIT_BOUND_SECONDS:
            text = f"a call to {call.server} waited {late:.1f} s longer than the operation took"
            yield Anomaly("waiter missed", call.name, text)


def _time_out(index: _Indexed, server: str, began: float, ended: float) -> float:
    """Return for how long a server may have had no chance to tell anybody anything.

    One that is paused in a commit keeps the others from the file; and a database that
    crashes, or drops everybody, is nobody's store for a while.
    """
    return sum(
        max(0.0, min(ended, it.ended) - max(began, it.began))
        for it in index.history.outages
        if it.server == server or it.kind in {"pause", "crash", "cut off", "drop"}
    )


def _lists_are_whole(index: _Indexed) -> Iterator[Anomaly]:
    for call in index.history.calls:
        if call.kind != "list" or call.code != "OK":
            continue
        names = [snapshot.name for snapshot in call.snapshots]
        for name in names:
            if not name.startswith(f"{call.name}/operations/"):
                yield Anomaly("listed elsewhere", name, f"in a list of {call.name}")
        for name in {name for name in names if names.count(name) > 1}:
            yield Anomaly("listed twice", name, f"in one list of {call.name}")
        for name, since in index.accepted.items():
            belongs = name.startswith(f"{call.name}/operations/") and since < call.began
            if belongs and name not in names and call.ended < index.delete_began(name):
                yield Anomaly("not listed", name, f"in a list of {call.name}")


def _answers_make_sense(index: _Indexed) -> Iterator[Anomaly]:
    for call in index.history.calls:
        refused = call.kind == "start" and call.code == "ABORTED"  # its key is another's
        if refused and any(it.ended < call.began for it in index.starts[call.request_id]):
            yield Anomaly("refused after its start", "", f"request_id {call.request_id}")
        if call.code not in _ANSWERS | _NO_ANSWER and not refused:
            yield Anomaly("unexpected answer", call.name, f"{call.kind} ended with {call.code}")
    for fault in index.history.faults:
        yield Anomaly("fault", "", fault)


_RULES: Sequence[Callable[[_Indexed], Iterable[Anomaly]]] = (
    _nothing_is_lost,
    _what_is_deleted_stays_so,
    _one_request_one_operation,
    _done_is_final,
    _nothing_goes_back,
    _attempts_are_bounded,
    _a_lease_runs_once,
    _recorded_steps_stay,
    _results_have_an_author,
    _a_cancel_reaches_the_handler,
    _what_a_killed_process_ran_is_taken_over,
    _retries_wait,
    _processes_keep_their_concurrency,
    _exclusive_keys_are_not_shared,
    _no_waiter_is_missed,
    _lists_are_whole,
    _answers_make_sense,
)
