"""Does jobs in order, in this process, in its threads or in several processes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from queue import SimpleQueue
from typing import TypeVar, cast

from quillgpt.process import usable_cores
from quillgpt.worker import Worker

CHARACTERS_PER_PROCESS = 1 << 23
"""For less text, starting a process costs more time than it saves."""

MOST_THREADS = 2
"""More are hardly faster, since one thread reads and writes for all of them, and each takes up to 0.2 GB."""

Job = TypeVar("Job")
Result = TypeVar("Result")


def number_of_processes(wanted: int | None, characters: int, characters_per_job: int) -> int:
    """Return the number of processes that work on a text.

    Args:
        wanted: The number that the user gave; None takes one for each core, and fewer for a short text.
        characters: The length of the text.
        characters_per_job: About how many characters are one job.
    """
    if wanted is None:
        return max(1, min(usable_cores(), characters // CHARACTERS_PER_PROCESS))
    return max(1, min(wanted, characters // characters_per_job))


def number_of_threads(wanted: int | None, characters: int, characters_per_job: int) -> int:
    """Return the number of threads that work on a text beside the one that reads it; 0 if that one does it all.

    Args:
        wanted: The number of cores that the user gave; None takes up to `MOST_THREADS`, and none for a short text.
        characters: The length of the text.
        characters_per_job: About how many characters are one job.
    """
    if wanted is None:
        wanted = min(usable_cores(), MOST_THREADS) if characters >= CHARACTERS_PER_PROCESS else 1
    count = min(wanted, characters // characters_per_job)
    return count if count > 1 else 0


@contextmanager
def workers(
    maker: Callable[..., Callable[[Job], Result]], *arguments: object, processes: int
) -> Iterator[Callable[[Iterable[Job]], Iterator[Result]]]:
    """Yield a function that does jobs, and returns their results in the order of the jobs.

    The processes end with the block, and with this process, in whatever way it ends.

    Args:
        maker: A function of a module that returns what does a job.
        arguments: Its arguments, which can be pickled.
        processes: How many processes work; 1 works in this one.

    Raises:
        ChildProcessError: A process was killed or has failed.
    """
    if processes == 1:
        do_here = maker(*arguments)
        yield lambda jobs: map(do_here, jobs)
        return
    with ExitStack() as stack:
        running = [stack.enter_context(Worker(maker, *arguments)) for _ in range(processes)]
        free: SimpleQueue[Worker] = SimpleQueue()
        for worker in running:
            free.put(worker)
        pool = stack.enter_context(ThreadPoolExecutor(processes))
        for worker in running:  # killed first, so that no thread waits for a result
            stack.callback(worker.kill)

        def do(job: Job) -> Result:
            worker = free.get()
            try:
                return cast("Result", worker.do(job))
            finally:
                free.put(worker)

        yield lambda jobs: _in_order(pool, do, jobs, most_waiting=2 * processes)


@contextmanager
def threads(do: Callable[[Job], Result], count: int) -> Iterator[Callable[[Iterable[Job]], Iterator[Result]]]:
    """Yield a function that does jobs in threads of this process, and returns their results in the order of the jobs.

    Args:
        do: Does a job, most of it without holding Python's lock.
        count: How many threads work beside this one; 0 works in this one.
    """
    if count == 0:
        yield lambda jobs: map(do, jobs)
        return
    with ThreadPoolExecutor(count) as pool:
        yield lambda jobs: _in_order(pool, do, jobs, most_waiting=2 * count)


def _in_order(
    pool: ThreadPoolExecutor, do: Callable[[Job], Result], jobs: Iterable[Job], *, most_waiting: int
) -> Iterator[Result]:
    waiting: deque[Future[Result]] = deque()
    for job in jobs:
        waiting.append(pool.submit(do, job))
        if len(waiting) > most_waiting:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
