"""A thread in every rank that notices when another rank has failed, hangs, or cannot be reached.

A collective that waits for a rank that is gone would wait for its whole time limit, and say nothing of the cause.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from quillgpt.distributed.meeting import Meeting, check_early_failures, publish_failure, within
from quillgpt.distributed.members import Member, in_words, ranks_in_words
from quillgpt.distributed.reporting import end_process
from quillgpt.distributed.restart import kept_by_agent
from quillgpt.errors import RankError

BEAT_SECONDS = 1.0

GRACE_SECONDS = 5.0
"""How long the main thread may take to end by itself when a rank has failed."""

SILENCE_SECONDS = 4.0
"""After an error of the connection, a rank without a sign of life for so long is taken for its cause."""


class Watch(threading.Thread):
    """Shows the others that this rank lives, and looks after them.

    Every rank looks after the processes on its own machine and after rank 0, and rank 0 after all.

    Args:
        meeting: The ranks.
        silence_seconds: How long a rank may give no sign of life.
        advice: Returns what to do after a rank was lost, for the end of the message.

    Attributes:
        failure: Why the run cannot go on, once that is known.
    """

    def __init__(self, meeting: Meeting, silence_seconds: float, advice: Callable[[], str]) -> None:
        super().__init__(name="quill-watch", daemon=True)
        self.advice = advice
        self.meeting = meeting
        self.silence_seconds = silence_seconds
        self.failure: RankError | None = None
        self._store = meeting.another_connection(silence_seconds)
        self._known, self._ended = threading.Event(), threading.Event()
        self._connected_by: tuple[float, Callable[[], RankError]] | None = None
        others = [member for member in meeting.members if member.rank != meeting.world.rank]
        self._neighbours = [member for member in others if member.machine == meeting.me.machine]
        self._watched = others if meeting.world.is_main else meeting.members[:1]
        self._looked = time.monotonic()
        self._beats: dict[int, tuple[bytes, float]] = {}

    def start(self) -> None:
        """Begin to look after the others."""
        super().start()
        threading.Thread(target=self._guard, name="quill-guard", daemon=True).start()

    def run(self) -> None:
        """Look after the others until `end`; if one has failed, end the process unless it ends by itself."""
        count = 0
        while not self._ended.wait(BEAT_SECONDS):
            count += 1
            try:
                self.failure = self._look(count)
                self._looked = time.monotonic()
            except RuntimeError:  # the store is gone, and with it the process that keeps it
                if self._ended.is_set():
                    return
                self.failure = self._store_lost()
            if self.failure is not None:
                self._known.set()
                break
        if self.failure is not None and not self._ended.wait(GRACE_SECONDS):
            end_process(self.advised(self.failure))

    def _guard(self) -> None:
        """End the process if the store does not answer any more, for which `run` would wait without end."""
        while not self._ended.wait(BEAT_SECONDS):
            seconds = time.monotonic() - self._looked
            if self.failure is None and seconds > self.silence_seconds + BEAT_SECONDS:
                self.failure = _unreachable(self.meeting.members[0], self.silence_seconds)
                self._known.set()
                if not self._ended.wait(GRACE_SECONDS):
                    end_process(self.advised(self.failure))
                return

    def advised(self, failure: RankError) -> RankError:
        """Return a failure that says what to do, where a rank was lost."""
        if not failure.is_loss:
            return failure
        return RankError(f"{failure}{self.advice()}", failure.status, failure.key, is_loss=True)

    def end(self) -> None:
        """Stop looking after the others."""
        self._ended.set()

    def expect_connection(self, seconds: float, otherwise: Callable[[], RankError]) -> None:
        """Let the first all-reduce end within some seconds."""
        self._connected_by = time.monotonic() + seconds, otherwise

    def connected(self) -> None:
        """Note that this rank has ended the first all-reduce."""
        self._connected_by = None

    def cause(self) -> RankError | None:
        """Return the failure of another rank that explains an error of the connection; None if there is none."""
        if self._known.wait(SILENCE_SECONDS * 2):
            return self.failure
        return None

    def gone_neighbour(self) -> RankError | None:
        """Return the failure of a rank on this machine whose process is gone; for torchrun then ends the others."""
        with suppress(RuntimeError):  # the store is gone, too
            return within(SILENCE_SECONDS, self._gone_neighbour)
        return None

    def _gone_neighbour(self) -> RankError | None:
        store = self.meeting.store
        gone = [member for member in self._neighbours if member.is_gone]
        try:
            check_early_failures(store, "failures")
        except RankError as failure:
            return failure
        gone = [member for member in gone if not store.check([f"left/{member.rank}"])]
        return _gone(gone[0]) if gone else None

    def say_left(self) -> None:
        """Tell the others that this rank is done, or ends in order."""
        with suppress(RuntimeError):  # who keeps the store has ended
            within(GRACE_SECONDS, lambda: self.meeting.store.set(f"left/{self.meeting.world.rank}", "1"))

    def wait_until_all_left(self, limit_seconds: float) -> None:
        """Wait until all ranks are done, so that none ends while others still talk to it."""
        keys = [f"left/{rank}" for rank in range(self.meeting.world.size)]
        end = time.monotonic() + limit_seconds
        while self.failure is None and time.monotonic() < end:
            try:
                if within(limit_seconds, lambda: self.meeting.store.check(keys)):
                    return
            except RuntimeError:  # rank 0, which keeps the store, has seen all leave, and ended
                return
            time.sleep(0.02)

    def _look(self, count: int) -> RankError | None:
        """Return the failure of another rank, if there is one."""
        rank, store = self.meeting.world.rank, self._store
        store.set(f"beat/{rank}", str(count))
        gone = [member for member in self._neighbours if member.is_gone]
        try:
            check_early_failures(store, "failures")  # a rank that ends in order has said why before
        except RankError as failure:
            return failure
        gone = [member for member in gone if not store.check([f"left/{member.rank}"])]
        if gone:
            return self._published(_gone(gone[0]))
        if silent := self._silent():
            return self._published(_silent(silent, self.silence_seconds))
        if self._connected_by is not None and time.monotonic() > self._connected_by[0]:
            return self._published(self._connected_by[1]())
        return None

    def _silent(self) -> list[Member]:
        """Return the watched ranks that have given no sign of life for too long."""
        now, silent = time.monotonic(), []
        for member in self._watched:
            key = f"beat/{member.rank}"
            beat = self._store.get(key) if self._store.check([key]) else b""
            before, since = self._beats.get(member.rank, (None, now))
            if beat != before:
                since = now
            self._beats[member.rank] = beat, since
            if now - since > self.silence_seconds and not self._store.check([f"left/{member.rank}"]):
                silent.append(member)
        return silent

    def silent_ranks(self) -> list[Member]:
        """Return the ranks that give no sign of life within some seconds; this takes as long.

        Raises:
            RuntimeError: The store does not answer either.
        """
        return within(SILENCE_SECONDS * 2, self._silent_for_seconds)

    def _silent_for_seconds(self) -> list[Member]:
        before = {member.rank: self._beat_of(member) for member in self.meeting.members}
        time.sleep(SILENCE_SECONDS)
        others = [member for member in self.meeting.members if member.rank != self.meeting.world.rank]
        return [member for member in others if self._beat_of(member) == before[member.rank]]

    def _beat_of(self, member: Member) -> bytes:
        key = f"beat/{member.rank}"
        store = self.meeting.store
        return store.get(key) if store.check([key]) else b""

    def _published(self, failure: RankError) -> RankError:
        publish_failure(self._store, failure, "failures")
        return failure

    def _store_lost(self) -> RankError:
        first = self.meeting.members[0]
        if first.is_gone:
            return _gone(first)
        if not kept_by_agent():
            return RankError(
                f"{first.name} (process {first.process}) does not answer any more", key="store", is_loss=True
            )
        # The launching process has ended, and nobody would end the ranks: they save and end as after SIGTERM.
        os.kill(os.getpid(), signal.SIGTERM)
        self._ended.wait(self.silence_seconds)
        return RankError(
            f"the process that started the ranks, at {self.meeting.where}, has ended or cannot be reached",
            key="store",
            is_loss=True,
        )


def _unreachable(member: Member, seconds: float) -> RankError:
    return RankError(
        f"{member.name} ({member.address}) cannot be reached for {seconds:g} s: its machine is down, or the link to it "
        "is cut; all ranks end",
        key=f"silent {ranks_in_words([member.rank])}",
        is_loss=True,
    )


def _gone(member: Member) -> RankError:
    return RankError(
        f"{member.name} (process {member.process}) was killed, or ended for lack of memory; all ranks end",
        key=f"gone {member.rank}",
        is_loss=True,
    )


def _silent(members: list[Member], seconds: float) -> RankError:
    return RankError(
        f"{in_words(members)} gave no sign of life for {seconds:g} s: hanging, or cut off; all ranks end",
        key="silent " + ranks_in_words([member.rank for member in members]),
        is_loss=True,
    )
