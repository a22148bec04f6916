"""One reading serves all who ask; logs in parts become lines."""

from __future__ import annotations

import asyncio
import itertools
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dure.console.feed import FORGET_S, Feed
from dure.console.logs import LINE_MAX, LogText, progress_in


def test_a_thousand_readers_cost_one_reading_a_second():
    now, readings = [0.0], []

    def read():
        readings.append(threading.current_thread())
        return len(readings)

    async def scene():
        feed = Feed(max_age_s=0.9, clock_s=lambda: now[0])
        assert await asyncio.gather(*(feed.ask("all", read) for _ in range(1000))) == [1] * 1000
        now[0] = 0.9
        assert await feed.ask("all", read) == 1
        now[0] = 1.0
        assert await asyncio.gather(*(feed.ask("all", read) for _ in range(1000))) == [2] * 1000
        assert await feed.ask("other", read) == 3
        now[0] += FORGET_S
        await feed.ask("third", read)
        assert set(feed._kept) == {"third"}

    asyncio.run(scene())
    assert threading.main_thread() not in readings


def test_a_refusal_is_everybodys_and_is_not_kept():
    answers = iter([ValueError("no"), 7])

    def read():
        answer = next(answers)
        if isinstance(answer, ValueError):
            raise answer
        return answer

    async def scene():
        feed = Feed()
        found = await asyncio.gather(*(feed.ask("x", read) for _ in range(3)), return_exceptions=True)
        assert [str(error) for error in found] == ["no"] * 3
        assert await feed.ask("x", read) == 7

    asyncio.run(scene())


def test_a_reader_who_leaves_takes_nothing_from_the_others():
    gate = threading.Event()

    async def scene():
        feed = Feed()
        first = asyncio.create_task(feed.ask("x", lambda: gate.wait(10)))
        second = asyncio.create_task(feed.ask("x", lambda: pytest.fail("a second reading")))
        await asyncio.sleep(0.05)
        first.cancel()
        gate.set()
        assert await second is True

    asyncio.run(scene())


@pytest.mark.parametrize(
    ("data", "lines"),
    [
        (b"one\ntwo\n", ["one", "two"]), (b"a\n\nb\n", ["a", "", "b"]), (b"win\r\n", ["win"]), (b"rest", ["rest"]),
        (b" 10%\r 50%\r100%\n", ["100%"]), (b"\x1b[31mred\x1b[0m\x07\n", ["red"]), ("가나\n".encode(), ["가나"]),
        (b"\xff\n", ["\ufffd"]), (b"x" * (LINE_MAX + 1) + b"\n", ["x" * LINE_MAX, "x"]),
    ],
)  # fmt: skip
def test_bytes_become_lines(data, lines):
    assert LogText().add(data, is_last=True) == lines


@given(st.text(alphabet="ab가\n", max_size=60), st.lists(st.integers(0, 200), max_size=8))
def test_lines_are_the_same_however_the_bytes_are_cut(text, cuts):
    data = text.encode()
    at = [0, *sorted(min(c, len(data)) for c in cuts), len(data)]
    log, lines = LogText(), []
    for begin, end in itertools.pairwise(at):
        lines += log.add(data[begin:end])
    lines += log.add(b"", is_last=True)
    assert lines == text.splitlines()


def test_progress_is_found_among_lines():
    lines = ["loading", 'dure-progress: {"step": 1, "loss": 0.5}', "dure-progress: nonsense", 'dure-progress: {"step": 2}']
    assert progress_in(lines) == [{"step": 1, "loss": 0.5}, {"step": 2}]
