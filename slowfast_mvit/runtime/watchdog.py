"""A watchdog in each rank: it names the rank that hangs or is lost, and ends the run.

A rank that hangs lets all others wait in a collective, whose timeout names no rank. So the main
thread of each rank notes its progress, and whether it waits for other ranks. A thread publishes
these notes in the store of the process group. A rank that has waited for the limit reads those of
the others: the one without progress that waits for none hangs. That thread of a stopped process
publishes nothing either, and so it is named as well.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass

from torch.distributed import DistError
from torch.distributed.distributed_c10d import PrefixStore, Store

from slowfast_mvit.errors import RankLost, printable

LIMIT_S = 600.0  # the default of DIST_TIMEOUT_S
# Collectives time out this much later: the watchdog names the rank that hangs, they do not.
AFTER_WATCHDOG_S = 60.0
BEAT_S = 0.5  # between two notes in the store
NUM_BEATS_LOST = 4  # without a note, after which a rank counts as lost once a collective has failed
NUM_RANKS_NAMED = 4
NUM_RANKS_PER_BEAT = 16  # whose notes are read, on average
STATUS = 1  # not a user error: a launcher may restart the ranks

_VERDICT = "verdict"


@dataclass(frozen=True)
class Note:
    """The published state of a rank.

    Attributes:
        beat: grows while the process runs.
        still_s: time without progress of the main thread, not counting time when the process was
            suspended.
        waits: the main thread is where it may have to wait for other ranks.
        activity: of the main thread, with the step.
        order: (epoch, batch, phase) of the activity; empty where it has none.
        failure: the reason why this rank has ended, if it has failed.
    """

    beat: int = -1
    still_s: float = 0.0
    waits: bool = False
    activity: str = "the start"
    order: Sequence[int] = ()
    failure: str = ""


def end_process(message: str) -> None:
    """End this process at once, from any thread, with a message on standard error."""
    if message:
        print(printable(message), file=sys.stderr, flush=True)
    os._exit(STATUS)


class Watchdog:
    """The watchdog of one rank.

    Args:
        store: that all ranks share, with the keys of no other run.
        rank: of this process.
        hosts: the host name of each rank.
        limit_s: time without progress after which a rank that others wait for hangs.
        end: ends the process; called with the message to print, or an empty text.

    Attributes:
        limit_s: see above.
        before_end: called with the message by the rank that prints it, to record it.
    """

    def __init__(
        self,
        store: Store,
        rank: int,
        hosts: Sequence[str],
        *,
        limit_s: float,
        end: Callable[[str], None] = end_process,
    ) -> None:
        self.before_end: list[Callable[[str], None]] = []
        self._store = store
        self._rank = rank
        self._hosts = hosts
        self.limit_s = limit_s
        self._beat_s = min(BEAT_S, limit_s / 10)
        self._beats_per_look = 1 + len(hosts) // NUM_RANKS_PER_BEAT  # the store serves all ranks
        self._end = end
        self._activity, self._order, self._failure = Note.activity, Note.order, ""
        self._num_noted = self._num_waits = 0
        self._last_noted = self._beat = 0
        self._still_s = 0.0
        self._seen: dict[int, tuple[int, float]] = {}  # of each rank: beat, time without another
        self._known: dict[int, Note] = {}  # the last notes that were read
        self._is_store_lost = False
        self._is_stopped = threading.Event()

    # In the main thread

    def note(self, activity: str = "", order: Sequence[int] = ()) -> None:
        """Note progress, and the activity unless it is the same as before."""
        if activity:
            self._activity, self._order = activity, order
        self._num_noted += 1

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Note that what is inside may have to wait for other ranks."""
        self._num_waits += 1
        self.note()
        try:
            yield
        finally:
            self._num_waits -= 1
            self.note()

    def explain(self, error: BaseException) -> str:
        """Return the reason why this rank fails, where it is another rank; else "".

        Collectives raise plain ``RuntimeError`` when a connection is lost: it is one if another
        rank has failed before, or publishes nothing any more. Other ranks can read the answer.
        """
        if self._failure:
            return ""  # explained before
        may_be_lost = type(error) is RuntimeError or isinstance(error, DistError)
        with self.waiting():
            try:
                cause = self._lost_rank() if may_be_lost else ""
                here = self._named(self._rank, Note(activity=self._activity))
                self._failure = cause or f"{here}, has ended with {type(error).__name__}"
                self._publish()
            except RuntimeError:  # the process that holds the store has ended
                return f"{self._named(0)}, has ended" if may_be_lost else ""
        return cause

    def _lost_rank(self) -> str:
        first = self._notes()
        for _ in range(NUM_BEATS_LOST):
            for note in self._notes().values():
                if note.failure:
                    return note.failure
            time.sleep(self._beat_s)
        silent = [rank for rank, note in self._notes().items() if note.beat == first[rank].beat]
        return f"{self._named(silent[0])}, is lost" if silent else ""

    # In threads

    def start(self) -> None:
        """Start the threads."""
        for run in (self._run, self._guard):
            threading.Thread(target=run, name="watchdog", daemon=True).start()

    def stop(self) -> None:
        """End the threads."""
        self._is_stopped.set()

    def _run(self) -> None:
        while not self._is_stopped.wait(self._beat_s):
            self.beat()

    def _guard(self) -> None:
        """End the process if the store answers the other thread no more."""
        last_beat, blocked_s = 0, 0.0
        while not self._is_stopped.wait(self._beat_s):
            blocked_s = blocked_s + self._beat_s if self._beat == last_beat else 0.0
            last_beat = self._beat
            if blocked_s >= self.limit_s:
                if self._rank > 1:  # a launcher ends it once rank 1 has printed this
                    time.sleep(NUM_BEATS_LOST * self._beat_s)
                self._finish(self._message([0]))

    def beat(self) -> None:
        """Publish a note; end the process if a rank hangs."""
        has_progress, self._last_noted = self._num_noted != self._last_noted, self._num_noted
        self._still_s = 0.0 if has_progress else self._still_s + self._beat_s
        if self._is_store_lost:  # since the process that holds it has ended
            if self._still_s >= self.limit_s:
                self._finish(self._message([0]) if self._num_waits else "")
            return
        waits_long = self._num_waits > 0 and self._still_s >= self.limit_s / 2
        try:
            self._publish()
            if self._rank:  # what rank 0 did last, if it does not answer any more
                self._known[0] = Note(**json.loads(self._store.get("0")))
            if self._store.check([_VERDICT]):
                self._obey()
            elif waits_long and self._beat % self._beats_per_look == 0:
                self._judge(self._notes())
        except RuntimeError:
            self._is_store_lost = True

    def _publish(self) -> None:
        self._beat += 1
        waits, order = self._num_waits > 0, list(self._order)
        note = Note(self._beat, self._still_s, waits, self._activity, order, self._failure)
        self._store.set(str(self._rank), json.dumps(asdict(note)))

    def _notes(self) -> dict[int, Note]:
        """Return the notes of the other ranks."""
        others = [rank for rank in range(len(self._hosts)) if rank != self._rank]
        ready = [str(rank) for rank in others]
        if not self._store.check(ready):
            ready = [key for key in ready if self._store.check([key])]
        values = self._store.multi_get(ready) if ready else []
        for key, value in zip(ready, values, strict=True):
            self._known[int(key)] = Note(**json.loads(value))
        return {rank: self._known.get(rank, Note()) for rank in others}

    def _judge(self, notes: dict[int, Note]) -> None:
        """End all ranks if one of them has failed or hangs."""
        for rank, note in notes.items():
            if note.failure:
                self._finish(f"{note.failure}, so this rank ends too")
            beat, silent_s = self._seen.get(rank, (note.beat, 0.0))
            look_s = self._beats_per_look * self._beat_s
            silent_s = silent_s + look_s if beat == note.beat else 0.0
            self._seen[rank] = note.beat, silent_s
        if self._still_s < self.limit_s:
            return
        still = {rank for rank, note in notes.items() if note.still_s >= self.limit_s}
        silent = {rank for rank in notes if self._seen[rank][1] >= self.limit_s / 2}
        hung = {rank for rank in still if not notes[rank].waits} | silent
        if not hung and len(still) == len(notes):
            # All wait, so those that arrived last: the others wait in a later phase.
            orders = {self._rank: list(self._order), **{r: list(notes[r].order) for r in still}}
            hung = {rank for rank in orders if orders[rank] == min(orders.values())}
        if hung:
            reporter = self._rank if 0 in hung else 0
            verdict = json.dumps([reporter, self._message(sorted(hung))])
            self._store.compare_set(_VERDICT, "", verdict)  # the first one counts
            self._obey()

    def _obey(self) -> None:
        reporter, message = json.loads(self._store.get(_VERDICT))
        if self._rank != reporter:  # so that the message is printed before a launcher ends all
            time.sleep(NUM_BEATS_LOST * self._beat_s)
            self._finish("")
        self._finish(message)

    def _finish(self, message: str) -> None:
        if self._is_stopped.is_set():
            return
        for record in self.before_end if message else ():
            with contextlib.suppress(OSError):
                record(message)
        self._end(message)

    def _message(self, hung: Sequence[int]) -> str:
        named = "; ".join(self._named(rank) for rank in hung[:NUM_RANKS_NAMED])
        more = f" and {len(hung) - NUM_RANKS_NAMED} more" if len(hung) > NUM_RANKS_NAMED else ""
        return (
            f"no progress for {self.limit_s:g} s (DIST_TIMEOUT_S): {named}{more}. Rank "
            f"{self._rank} waits at {self._activity}, so all ranks end; the same command resumes "
            "from the last checkpoint"
        )

    def _named(self, rank: int, note: Note | None = None) -> str:
        known = {self._rank: Note(activity=self._activity), **self._known}
        note = note or known.get(rank, Note())
        return f"rank {rank} on {self._hosts[rank]}, at {note.activity}"


_watchdog: Watchdog | None = None  # of this process, inside of ``watched``


@contextlib.contextmanager
def watched(
    store: Store,
    rank: int,
    *,
    limit_s: float,
    gather: Callable[[tuple[str, str]], Sequence[tuple[str, str]]],
) -> Iterator[None]:
    """Run the watchdog of this rank inside, unless it runs already; all ranks call this together.

    Args:
        store: of the process group.
        rank: of this process.
        limit_s: see ``Watchdog``.
        gather: returns the items of all ranks.

    Raises:
        RankLost: instead of an error of which another rank is the cause.
    """
    global _watchdog
    if _watchdog is not None:
        yield
        return
    # A store may outlive the ranks of an attempt, so the keys of each attempt have another prefix.
    places = gather((socket.gethostname(), uuid.uuid4().hex))
    keys = PrefixStore(f"watchdog {places[0][1]}", store.clone())
    _watchdog = watchdog = Watchdog(keys, rank, [host for host, _ in places], limit_s=limit_s)
    watchdog.start()
    try:
        with naming_lost_ranks():
            yield
    finally:
        watchdog.stop()
        _watchdog = None


@contextlib.contextmanager
def naming_lost_ranks() -> Iterator[None]:
    """Raise ``RankLost`` instead of an error of which another rank is the cause."""
    try:
        yield
    except BaseException as error:
        if _watchdog is not None and (cause := _watchdog.explain(error)):
            raise RankLost(f"{cause}, so this rank ends too") from error
        raise


def collective_timeout(limit_s: float | None = None) -> datetime.timedelta:
    """Return the timeout of collectives where the watchdog has, or will have, this limit."""
    if limit_s is None:
        limit_s = LIMIT_S if _watchdog is None else _watchdog.limit_s
    return datetime.timedelta(seconds=limit_s + AFTER_WATCHDOG_S)


def note_progress(activity: str = "", order: Sequence[int] = ()) -> None:
    """Note what this rank does now, for the message about a rank that hangs.

    Args:
        activity: with the epoch and step; empty for the same as before.
        order: (epoch, batch, phase), where all ranks have the same ones.
    """
    if _watchdog is not None:
        _watchdog.note(activity, order)


@contextlib.contextmanager
def waiting_for_ranks() -> Iterator[None]:
    """Note that what is inside may have to wait for other ranks."""
    with contextlib.nullcontext() if _watchdog is None else _watchdog.waiting():
        yield


@contextlib.contextmanager
def recording_end(record: Callable[[str], None]) -> Iterator[None]:
    """Call ``record`` with the message, on one rank, if the watchdog ends all of them inside."""
    records = [] if _watchdog is None else _watchdog.before_end
    records.append(record)
    try:
        yield
    finally:
        records.remove(record)
