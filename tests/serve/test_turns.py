"""Requests take turns: fairly, one at a time, and not ahead of slow readers."""

from __future__ import annotations

import asyncio
import threading

import pytest

pytest.importorskip("starlette", reason="the extra serve is not installed")

import quillgpt.serve.turns as turns
from quillgpt.serve.completion import Piece
from quillgpt.serve.turns import EndedError, FullError, Turns


@pytest.fixture
def taking():
    made = Turns()
    yield made
    made.end()


async def all_of(job, pause=0.0):
    return [piece.text async for pieces in job.pieces(pause) for piece in pieces]


def test_steps_are_computed_in_turn_by_one_thread(taking):
    order, threads = [], set()

    def steps(name):
        for number in range(50):
            order.append(name)
            threads.add(threading.get_ident())
            yield [Piece(0, f"{name}{number}")]

    async def main():
        jobs = [taking.submit(steps(name)) for name in "abc"]
        return await asyncio.gather(*map(all_of, jobs))

    assert asyncio.run(main()) == [[f"{name}{n}" for n in range(50)] for name in "abc"]
    assert len(threads) == 1
    assert set(order[75:100]) > {order[99]}  # none has waited for another to end


def test_the_end_of_the_server_is_told(taking):
    def endless():
        while True:
            yield [Piece(0, "x")]

    async def main():
        job = taking.submit(endless())
        await anext(job.pieces())
        taking.end()
        with pytest.raises(EndedError):
            await all_of(job)

    asyncio.run(main())


def test_an_error_ends_one_request_alone(taking):
    def failing():
        yield [Piece(0, "a")]
        raise ValueError("broken")

    async def main():
        failed, good = taking.submit(failing()), taking.submit(iter([[Piece(0, "b")]] * 3))
        assert await all_of(good) == ["b"] * 3
        with pytest.raises(ValueError, match="broken"):
            await all_of(failed)

    asyncio.run(main())


def test_no_more_is_computed_than_a_reader_takes(taking, monkeypatch):
    monkeypatch.setattr(turns, "MOST_UNREAD", 3)
    computed = 0

    def endless():
        nonlocal computed
        while True:
            computed += 1
            yield [Piece(0, "x")]

    async def main():
        job = taking.submit(endless())
        other = taking.submit(iter([[Piece(0, "y")]] * 50))
        assert len(await all_of(other)) == 50
        await asyncio.sleep(0.05)
        assert computed == 3
        async for _ in job.pieces():
            break
        job.cancel()
        while taking.counts != (0, 0):
            await asyncio.sleep(0.01)
        assert computed <= 7

    asyncio.run(main())


def test_those_who_wait_come_next_and_their_number_is_limited(taking, monkeypatch):
    monkeypatch.setattr(turns, "AT_A_TIME", 1)
    monkeypatch.setattr(turns, "MOST_WAITING", 2)
    go = threading.Event()

    def first():
        go.wait(10)
        yield [Piece(0, "first")]

    async def main():
        jobs = [taking.submit(first()), taking.submit(iter([[Piece(0, "second")]]))]
        left = taking.submit(iter([[Piece(0, "never")]]))
        with pytest.raises(FullError):
            taking.submit(iter([]))
        left.cancel()
        jobs.append(taking.submit(iter([[Piece(0, "third")]])))
        go.set()
        assert [await all_of(job) for job in jobs] == [["first"], ["second"], ["third"]]

    asyncio.run(main())


def test_events_come_no_more_often_than_asked(taking):
    async def main():
        job = taking.submit(iter([[Piece(0, "x")]] * 200))
        return [len(pieces) async for pieces in job.pieces(0.05)]

    sizes = asyncio.run(main())
    assert sum(sizes) == 200
    assert len(sizes) < 100


def test_the_end_does_not_wait_for_a_pause(taking):
    """A reader that takes an hour from one event to the next still gets the last step at once."""

    async def main():
        job = taking.submit(iter([[Piece(0, "a")], [Piece(0, "b")]]))
        return await asyncio.wait_for(all_of(job, pause=3600), timeout=60)

    assert asyncio.run(main()) == ["a", "b"]
