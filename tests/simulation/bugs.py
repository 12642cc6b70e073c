"""Bugs that are put in on purpose. Each is one that some queue has had."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

from outlast.domain import transitions
from outlast.domain.operation import Lease, State
from outlast.domain.transitions import Released, Retry
from outlast.engine import leases
from outlast.engine.context import ExecutionContext
from outlast.engine.engine import Engine
from outlast.engine.executor import Executor
from outlast.engine.leases import LeaseKeeper
from outlast.engine.manager import OperationManager
from outlast.engine.running import Workload
from outlast.engine.waiters import WaiterHub, _Answer, _resolve
from outlast.ports import Renewal
from outlast.stores.memory import MemoryStore
from outlast.stores.memory.records import Records

BUGS: dict[str, Callable] = {}
"""What is wrong, and how to make it so with a `pytest.MonkeyPatch`."""


def bug(install):
    BUGS[install.__name__] = install
    return install


def _current(lease, operation):
    return Lease(lease.name, operation.lease_epoch)


# The store


@bug
def finish_does_not_check_the_epoch(patch):
    right = transitions.finish
    patch.setattr(
        transitions,
        "finish",
        lambda it, lease, outcome, now: right(it, _current(lease, it), outcome, now),
    )


@bug
def progress_does_not_check_the_epoch(patch):
    right = transitions.report
    patch.setattr(
        transitions,
        "report",
        lambda it, lease, progress, metadata, now: right(
            it, _current(lease, it), progress, metadata, now
        ),
    )


@bug
def steps_do_not_check_the_epoch(patch):
    async def record_step(self, lease, key, result):
        self._steps.setdefault(lease.name, {}).setdefault(key, result)

    patch.setattr(MemoryStore, "record_step", record_step)


@bug
def renewals_do_not_check_the_epoch(patch):
    right = transitions.renew
    patch.setattr(
        transitions,
        "renew",
        lambda it, lease, now, duration: right(it, _current(lease, it), now, duration),
    )


@bug
def a_claim_does_not_look_again_whether_the_lease_has_run_out(patch):
    right = Records.longest_ready

    def longest_ready(self, methods, now, *, lost_by, **options):
        ahead = timedelta(seconds=2)
        stale = right(self, methods, now + ahead, lost_by=lost_by + ahead, **options)
        taken = stale is not None and stale.state is State.RUNNING
        return stale if taken else right(self, methods, now, lost_by=lost_by, **options)

    patch.setattr(Records, "longest_ready", longest_ready)


@bug
def taking_over_does_not_raise_the_epoch(patch):
    right = transitions.claim

    def claim(operation, *rest):
        after = right(operation, *rest)
        taken_over = operation.state is State.RUNNING and not after.done
        return after.evolve(lease_epoch=operation.lease_epoch) if taken_over else after

    patch.setattr(transitions, "claim", claim)


@bug
def taking_over_forgets_the_maximum_of_attempts(patch):
    right = transitions.claim

    def claim(operation, *rest):
        after = right(operation.evolve(max_attempts=99), *rest)
        return after.evolve(max_attempts=operation.max_attempts)

    patch.setattr(transitions, "claim", claim)


@bug
def what_was_cancelled_is_run_again_after_a_crash(patch):
    right = transitions.claim

    def claim(operation, *rest):
        after = right(operation.evolve(cancel_requested_time=None), *rest)
        return after.evolve(cancel_requested_time=operation.cancel_requested_time)

    patch.setattr(transitions, "claim", claim)


@bug
def an_insert_does_not_look_for_the_request_id(patch):
    patch.setattr(MemoryStore, "_same_request", lambda *_: None)


@bug
def an_attempt_counts_although_it_was_given_back(patch):
    right = transitions.finish

    def finish(operation, lease, outcome, now):
        after = right(operation, lease, outcome, now)
        return after.evolve(attempt=operation.attempt) if outcome == Released() else after

    patch.setattr(transitions, "finish", finish)


@bug
def a_retry_forgets_that_it_was_to_be_cancelled(patch):
    right = transitions.finish

    def finish(operation, lease, outcome, now):
        if isinstance(outcome, Retry):
            operation = operation.evolve(cancel_requested_time=None)
        return right(operation, lease, outcome, now)

    patch.setattr(transitions, "finish", finish)


@bug
def a_retry_is_due_at_once(patch):
    right = transitions.finish

    def finish(operation, lease, outcome, now):
        if isinstance(outcome, Retry):
            outcome = replace(outcome, delay=timedelta())
        return right(operation, lease, outcome, now)

    patch.setattr(transitions, "finish", finish)


@bug
def a_late_cancel_overwrites_a_result(patch):
    right = transitions.request_cancel

    def request_cancel(operation, now):
        if not operation.done:
            return right(operation, now)
        return operation.evolve(revision=operation.revision + 1, state=State.CANCELLED)

    patch.setattr(transitions, "request_cancel", request_cancel)


@bug
def finishing_brings_back_what_was_deleted(patch):
    right = transitions.finish
    patch.setattr(transitions, "finish", lambda *call: right(*call).evolve(deleted=False))


@bug
def a_renewal_does_not_tell_of_cancellation(patch):
    right = MemoryStore.renew

    async def renew(self, *call):
        return Renewal((await right(self, *call)).lost)

    patch.setattr(MemoryStore, "renew", renew)


@bug
def what_has_lost_its_lease_gives_its_place_away(patch):
    def running(self, method):
        held = (it for it in self.unfinished(method) if it.state is State.RUNNING)
        return sum(it.ready_time > self.now for it in held)

    right = MemoryStore.claim

    async def claim(self, *call, **options):
        self._records.now = self._clock.now()
        return await right(self, *call, **options)

    patch.setattr(Records, "running", running)
    patch.setattr(MemoryStore, "claim", claim)


@bug
def every_worker_keeps_the_limit_of_all_for_itself(patch):
    right = MemoryStore.claim

    async def claim(self, worker, *call, **options):
        others = sum(
            it.state is State.RUNNING and it.worker != worker
            for method in options["max_running"]
            for it in self._records.unfinished(method)
        )
        limits = {it: limit + others for it, limit in options["max_running"].items()}
        return await right(self, worker, *call, **options | {"max_running": limits})

    patch.setattr(MemoryStore, "claim", claim)


# The engine


@bug
def a_start_that_is_made_again_has_another_name(patch):
    right = OperationManager.start

    async def start(self, request, *rest):
        store = self._store

        class Renaming:
            def __getattr__(self, name):
                return getattr(store, name)

            def insert(self, operation, *call, **options):
                new = renamed()
                return store.insert(new.evolve(request_id=operation.request_id), *call, **options)

        def renamed():
            return self._new_operation(request)

        manager = object.__new__(OperationManager)
        manager.__dict__.update(self.__dict__, _store=Renaming())
        return await right(manager, request, *rest)

    patch.setattr(OperationManager, "start", start)


@bug
def a_worker_does_not_fence_itself(patch):
    patch.setattr(LeaseKeeper, "fence", lambda *_: None)


@bug
def what_was_given_too_late_is_begun(patch):
    right = Executor._launch

    def launch(self, *call):
        with_fence, self.leases.fence = self.leases.fence, lambda *_: None
        right(self, *call)
        self.leases.fence = with_fence

    patch.setattr(Executor, "_launch", launch)


@bug
def a_lease_is_counted_from_when_its_renewal_was_answered(patch):
    right = leases._apply

    def apply(renewal, running, _until):
        clock, lease = running.context._clock, running.context._settings.lease
        right(renewal, running, clock.monotonic() + lease.total_seconds())

    patch.setattr(leases, "_apply", apply)


@bug
def a_failed_renewal_ends_the_renewing(patch):
    async def renew(self):
        held = [running for running in self._workload if running.keeps_lease]
        asked_at = self._clock.monotonic()
        renewal = await self._store.renew([it.lease for it in held], self._lease)
        for running in held:
            leases._apply(renewal, running, asked_at + self._lease.total_seconds())
        return True

    patch.setattr(LeaseKeeper, "_renew", renew)


@bug
def a_recorded_step_is_executed_again(patch):
    async def no_steps(_self):
        return {}

    patch.setattr(ExecutionContext, "_earlier_steps", no_steps)


@bug
def a_method_runs_more_than_it_may(patch):
    def free_slots(self):
        free = self._concurrency - len(self._running)
        return dict.fromkeys(self._methods, free) if free > 0 else {}

    patch.setattr(Workload, "free_slots", free_slots)


@bug
def a_process_runs_more_than_it_may(patch):
    patch.setattr(Workload, "__len__", lambda _self: 0)
    patch.setattr(
        Workload, "free_slots", lambda self: dict.fromkeys(self._methods, self._concurrency)
    )


@bug
def a_waiter_reads_before_it_subscribes(patch):
    async def wait(self, name, seconds, *_):
        operation = await self._store.get(name)
        if operation.done or seconds <= 0 or self._released:
            return operation if operation.done else None
        waiter = asyncio.get_running_loop().create_future()
        timer = self._clock.call_later(seconds, lambda: _resolve(waiter, _Answer.LOOK))
        self._add(name, waiter)
        try:
            answer = await waiter
        finally:
            timer.cancel()
            self._remove(name, waiter)
        return None if isinstance(answer, _Answer) else answer

    patch.setattr(WaiterHub, "wait", wait)


@bug
def waiters_rest_on_hints_alone(patch):
    async def never(_self):
        await asyncio.get_running_loop().create_future()

    patch.setattr(WaiterHub, "_poll", never)


@bug
def waiters_do_not_hear_that_anything_may_have_changed(patch):
    right = WaiterHub._on_changes
    patch.setattr(
        WaiterHub, "_on_changes", lambda self, changes: changes is not None and right(self, changes)
    )


@bug
def waiters_do_not_hear_of_deletions(patch):
    right = WaiterHub._on_end
    patch.setattr(
        WaiterHub, "_on_end", lambda self, change: None if change.deleted else right(self, change)
    )


@bug
def a_stopped_engine_leaves_a_task_behind(patch):
    right = Engine.stop

    async def stop(self):
        self._sweepers.clear()
        await right(self)

    patch.setattr(Engine, "stop", stop)


@bug
def the_reaper_ends_what_still_runs(patch):
    patch.setattr(
        Records,
        "ready_to_end",
        lambda self, _now, **_: [self._by_name[it] for it in sorted(self._ending)],
    )


@bug
def the_reaper_ends_what_may_run_again(patch):
    right = transitions.reap
    patch.setattr(
        transitions,
        "reap",
        lambda it, now: right(it, now + timedelta(seconds=5)),
    )
