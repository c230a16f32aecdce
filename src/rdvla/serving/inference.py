"""Queries of many robots form batches for the replicas of a policy; the event loop never waits for one.

A replica that becomes free takes a batch at once. The query that is due first leads it: due at its deadline,
or `PATIENCE` after it came if it has none, so neither kind waits for ever. Others follow in the same order,
as many as make the number of answers in time, per second that the batch takes, largest. What batches take is
learnt from those before.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from logging import ERROR, WARNING

from rdvla.control import BatchCosts
from rdvla.errors import RDVLAError
from rdvla.serving.batching import best_size
from rdvla.serving.log import log_event
from rdvla.serving.margin import Margin
from rdvla.serving.queries import Answer, BusyError, Query, Replica, ReplicaDiedError

PATIENCE = 1.0  # seconds until a query without a deadline is due
DEPTHS_KEPT = 256  # depths that the usual one is the mean of
NO_REPLICA = "this policy runs no more; the server's log says why. Ask again later, or another server"
STOPPING = "the server is stopping: ask another one"


@dataclass(eq=False)
class _Waiting:
    """A query whose asker waits."""

    query: Query
    answer: asyncio.Future[Answer]
    arrived: float
    died: bool = False  # a replica died over it: it is asked again, alone
    began: float = 0.0  # when a replica took it
    margin: float = 0.0  # that it was given

    @property
    def due(self) -> float:
        return self.arrived + PATIENCE if self.query.deadline is None else self.query.deadline


class Inference:
    """Batches queries for replicas; see the top of this file. Lives in one event loop.

    Args:
        replicas: of one policy, ready.
        max_waiting: queries that may wait while all replicas are busy; further ones are refused.
        max_batch: queries of one batch.
        grace_seconds: that running queries may take once this closes.
        clock: tells the time in seconds, as deadlines do.
    """

    def __init__(
        self,
        replicas: Sequence[Replica],
        *,
        max_waiting: int = 64,
        max_batch: int = 32,
        grace_seconds: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._margin = Margin()
        self._costs = BatchCosts()
        self._replicas = list(replicas)
        self._free = deque(self._replicas)
        self._max_waiting, self._max_batch, self._clock = max_waiting, max_batch, clock
        self._grace_seconds = grace_seconds
        self._asking = 0  # callers of `ask` at present
        self._waiting: list[_Waiting] = []
        self._running: set[asyncio.Task[None]] = set()
        self._depths: deque[int] = deque(maxlen=DEPTHS_KEPT)
        self._closed = ""  # why nothing is answered any more

    @property
    def waiting(self) -> int:
        """Queries that wait for a replica."""
        return len(self._waiting)

    @property
    def is_alive(self) -> bool:
        """Whether a replica is left; if not, every query is refused until the server starts anew."""
        return bool(self._replicas)

    async def ask(self, query: Query) -> Answer:
        """Return the answer to a query. If the caller is cancelled, the query leaves the queue.

        Raises:
            BusyError: too many queries wait already, no replica is left, or this is closing.
            RDVLAError: the query cannot be answered.
        """
        if self._closed:
            raise BusyError(self._closed)
        if len(self._waiting) >= self._max_waiting:
            raise BusyError(
                f"{len(self._waiting)} queries wait for this policy already, which is the most that may: ask "
                "again later, or another server"
            )
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        waiting = _Waiting(query, future, self._clock())
        self._waiting.append(waiting)
        self._asking += 1
        try:
            self._dispatch()
            answer = await future
        except asyncio.CancelledError:
            if waiting in self._waiting:
                self._waiting.remove(waiting)
            raise
        finally:
            self._asking -= 1
        self._learn_margin(waiting, answer)
        return answer

    async def warm_up(self, query: Query) -> None:
        """Run some batches of a query on every replica, before others are asked, and learn what they cost.

        The first batches of a process are slow, and compiled code is compiled only then.
        """
        for size in sorted({1, min(2, self._max_batch), self._max_batch}):
            for stop in (None, "2", "8"):  # costs of encoding and of iterating are told apart by depth
                batch = [replace(query, stop=stop, deadline=None)] * size
                for replica in self._replicas:
                    began = self._clock()
                    answers = await replica.predict(batch)
                    if stop is not None:
                        self._learn_costs(answers, self._clock() - began)

    def replied(self, seconds: float) -> None:
        """Learn how long a reply took to be packed and sent, so that later ones are ready in time."""
        self._margin.add_reply(seconds)

    async def close(self) -> None:
        """Refuse new queries, wait for the answers to those that came, and end the replicas.

        Waits `grace_seconds` at most, and not at all if nobody wants the answers; then the queries fail.
        """
        self._closed = self._closed or STOPPING
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._grace_seconds):
                    while self._running and self._asking:
                        await asyncio.wait(self._running)
        finally:
            cut_off = set(self._running)  # a replica hangs
            for task in cut_off:
                task.cancel()
            if cut_off:
                await asyncio.wait(cut_off)
            self._fail_waiting(self._closed)
            await asyncio.gather(*map(_end, self._replicas))

    def _dispatch(self) -> None:
        try:
            while self._free and self._waiting:
                batch = self._next_batch()
                for each in batch:
                    self._waiting.remove(each)
                task = asyncio.create_task(self._serve(self._free.popleft(), batch))
                self._running.add(task)
                task.add_done_callback(self._running.discard)
        except Exception as error:  # noqa: BLE001  # nobody may wait for ever
            log_event("batches failed", level=ERROR, error=error)
            self._fail_waiting("the server could not form a batch; its log says why")

    def _next_batch(self) -> list[_Waiting]:
        first, *others = sorted(self._waiting, key=lambda each: each.due)
        if first.died:
            return [first]
        share = math.ceil(len(self._waiting) / len(self._free))  # so no free replica idles
        queue = [first, *(each for each in others if not each.died)][: min(share, self._max_batch)]
        return queue[: self._best_size(queue)]

    def _best_size(self, queue: Sequence[_Waiting]) -> int:
        if not self._costs.known:
            return len(queue)
        usual = sum(self._depths) / len(self._depths) if self._depths else 1.0
        now, margin = self._clock(), self._margin.seconds
        left = [
            math.inf if each.query.deadline is None else each.query.deadline - margin - now for each in queue
        ]
        return best_size(left, costs=self._costs, usual=usual)

    async def _serve(self, replica: Replica, batch: list[_Waiting]) -> None:
        try:
            await self._answer(replica, batch)
        except ReplicaDiedError as error:
            log_event("replica died", level=WARNING, reason=str(error))
            self._ask_again(batch, error)
            self._dispatch()  # to other replicas, while this one starts
            if not await self._restart(replica):
                return
        except asyncio.CancelledError:  # by `close`
            for each in batch:
                _settle(each, BusyError(self._closed))
            raise
        self._free.append(replica)
        self._dispatch()

    async def _restart(self, replica: Replica) -> bool:
        """Start a replica anew; without success it is given up."""
        try:
            await replica.restart()
        except Exception as error:  # noqa: BLE001  # whatever it was, the queries must not wait for it
            left = len(self._replicas) - 1
            log_event("replica lost", level=ERROR, error=error, replicas_left=left)
            self._replicas.remove(replica)
            if not left:
                self._closed = self._closed or NO_REPLICA
                self._fail_waiting(self._closed)
            await _end(replica)
            return False
        return True

    async def _answer(self, replica: Replica, batch: Sequence[_Waiting]) -> None:
        """Answer a batch; if it fails, each query by itself, so only those at fault fail.

        Raises:
            ReplicaDiedError: the replica has ended.
        """
        asked = [each for each in batch if not each.answer.done()]  # the others' askers have gone
        if not asked:
            return
        began, margin = self._clock(), self._margin.seconds
        for each in asked:
            each.began, each.margin = began, margin
        try:
            answers = await replica.predict([_earlier(each.query, margin) for each in asked])
            self._learn_costs(answers, self._clock() - began)
            for each, answer in zip(asked, answers, strict=True):
                _settle(each, replace(answer, waiting_ms=1000 * (began - each.arrived)))
        except ReplicaDiedError:
            raise
        except Exception as error:  # noqa: BLE001  # it is the askers' to handle
            if len(asked) > 1:
                for each in asked:
                    await self._answer(replica, [each])
            else:
                _settle(asked[0], error)

    def _ask_again(self, batch: Sequence[_Waiting], error: ReplicaDiedError) -> None:
        for each in batch:
            if each.answer.done():
                continue
            if error.while_idle:
                self._waiting.append(each)
            elif each.died:
                _settle(each, RDVLAError(f"{error}, twice while it answered this query"))
            else:
                each.died = True
                self._waiting.append(each)

    def _fail_waiting(self, told: str) -> None:
        while self._waiting:
            _settle(self._waiting.pop(), BusyError(told))

    def _learn_costs(self, answers: Sequence[Answer], seconds: float) -> None:
        self._costs.add([int(answer.prediction.depth) for answer in answers], seconds)
        self._depths.extend(
            int(answer.prediction.depth) for answer in answers if answer.ended_by != "deadline"
        )

    def _learn_margin(self, waiting: _Waiting, answer: Answer) -> None:
        now = self._clock()
        self._margin.add_handover(now - waiting.began - answer.inference_ms / 1000)
        deadline = waiting.query.deadline
        if deadline is None or answer.ended_by != "deadline":
            return
        deadline -= waiting.margin
        if waiting.began + self._costs.seconds(answer.batch_size, 1) <= deadline:  # it could have been kept
            self._margin.add_lateness(now - deadline)


def _earlier(query: Query, margin: float) -> Query:
    return query if query.deadline is None else replace(query, deadline=query.deadline - margin)


async def _end(replica: Replica) -> None:
    try:
        await replica.close()
    except Exception as error:  # noqa: BLE001  # the others have to end as well
        log_event("replica not closed", level=ERROR, error=error)


def _settle(waiting: _Waiting, result: Answer | Exception) -> None:
    if waiting.answer.done():
        return
    if isinstance(result, Exception):
        waiting.answer.set_exception(result)
    else:
        waiting.answer.set_result(result)
