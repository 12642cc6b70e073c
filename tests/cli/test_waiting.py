"""The rules of waiting, with a clock of the test's own."""

from dataclasses import dataclass, field
from itertools import pairwise

import pytest

from outlast.cli.exit_codes import ExitCode
from outlast.cli.failure import Failure, TransientFailure
from outlast.cli.snapshot import Snapshot
from outlast.cli.waiting import PATIENCE_SECONDS, SLICE_SECONDS, wait_until_done

UNFINISHED = Snapshot(name="operations/a", done=False, document={})
AWAY = "the server does not answer; trying again: nobody there"
DONE = Snapshot(name="operations/a", done=True, document={})


@dataclass
class World:
    """A server, a clock and a person; the answers of the server follow a script."""

    answers: list[Snapshot | Failure]
    seconds_per_answer: float = 0.0
    now: float = 100.0
    slept: list[float] = field(default_factory=list)
    asked: list[float] = field(default_factory=list)
    told: list[str] = field(default_factory=list)

    def get(self, name: str, within: float) -> Snapshot:
        return self.wait(name, 0.0)

    def wait(self, name: str, seconds: float) -> Snapshot:
        self.asked.append(seconds)
        self.now += min(seconds, self.seconds_per_answer)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Failure):
            raise answer
        return answer

    def show(self, snapshot: Snapshot) -> None:
        self.told.append(snapshot.state)

    def notice(self, text: str) -> None:
        self.told.append(text)

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    def run(self, **options: float) -> Snapshot:
        return wait_until_done(
            self,
            "operations/a",
            self,
            again="outlast operations wait operations/a",
            monotonic=lambda: self.now,
            sleep=self.sleep,
            **options,
        )


def away() -> TransientFailure:
    return TransientFailure(ExitCode.UNREACHABLE, "nobody there")


def test_a_server_that_waits_is_asked_again_without_a_pause():
    world = World([UNFINISHED, UNFINISHED, UNFINISHED, DONE], seconds_per_answer=SLICE_SECONDS)
    assert world.run() is DONE
    assert world.slept == []


def test_a_server_that_answers_at_once_is_asked_less_and_less_often():
    world = World([UNFINISHED] * 30 + [DONE])
    assert world.run() is DONE
    assert all(earlier <= later for earlier, later in pairwise(world.slept))
    assert world.slept[0] < 0.2
    assert world.slept[-1] == 5.0


def test_the_timeout_bounds_every_call_and_every_pause():
    world = World([UNFINISHED])
    with pytest.raises(Failure) as caught:
        world.run(timeout=2.5)
    assert caught.value.exit_code is ExitCode.TIMEOUT
    assert world.now == pytest.approx(102.5)


def test_a_server_that_comes_back_is_asked_as_eagerly_as_at_first():
    world = World([UNFINISHED] * 20 + [away(), UNFINISHED, DONE])
    assert world.run() is DONE
    assert world.told.count(AWAY) == 1
    assert world.slept[-1] == world.slept[0]


def test_a_server_that_stays_away_is_given_up():
    world = World([UNFINISHED, away()])
    with pytest.raises(TransientFailure, match="nobody there") as caught:
        world.run()
    assert caught.value.exit_code is ExitCode.UNREACHABLE
    assert caught.value.lines[-1] == "wait again with: outlast operations wait operations/a"
    assert PATIENCE_SECONDS < world.now - 100.0 < PATIENCE_SECONDS + 10


def test_a_server_that_is_away_at_the_start_is_waited_for_and_said_so_once():
    world = World([away(), away(), away(), UNFINISHED, DONE])
    assert world.run() is DONE
    assert world.told == [AWAY, "UNFINISHED", "UNFINISHED"]
    assert len(world.slept) == 3


def test_a_server_that_never_comes_is_given_up():
    world = World([away()])
    with pytest.raises(TransientFailure, match="nobody there") as caught:
        world.run()
    assert caught.value.exit_code is ExitCode.UNREACHABLE
    assert PATIENCE_SECONDS < world.now - 100.0 < PATIENCE_SECONDS + 10


def test_the_timeout_ends_waiting_for_a_server_that_never_comes():
    world = World([away()])
    with pytest.raises(TransientFailure, match="nobody there"):
        world.run(timeout=2.5)
    assert world.now == pytest.approx(102.5)


def test_an_error_that_will_not_pass_ends_the_waiting():
    world = World([UNFINISHED, Failure(ExitCode.NOT_FOUND, "gone")])
    with pytest.raises(Failure, match="gone"):
        world.run()
