"""Jobs' output as the service keeps it: each byte once, and no more than may be."""

from __future__ import annotations

import threading

import pytest

from dure.service.errors import Problem
from dure.service.logs import LogFiles


def test_parts_that_come_twice_late_or_early(tmp_path):
    logs = LogFiles(tmp_path)
    assert logs.append("j.1", 0, 0, b"abc") == 3
    assert logs.append("j.1", 0, 0, b"abc") == 3
    assert logs.append("j.1", 0, 1, b"bcde") == 5
    with pytest.raises(Problem) as refused:
        logs.append("j.1", 0, 6, b"g")
    assert (refused.value.status, refused.value.headers["Dure-Next-Offset"]) == (409, "5")
    assert logs.read("j.1", 0, 0) == b"abcde"


def test_one_part_from_many_at_one_moment_is_kept_once(tmp_path):
    """As when an agent asks again before its first request was through, or two services share the folder."""
    part, barrier = b"x" * 65536, threading.Barrier(8)

    def send(logs):
        barrier.wait()
        for number in range(20):
            logs.append("j.1", 0, number * len(part), part)

    threads = [threading.Thread(target=send, args=(LogFiles(tmp_path),)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert LogFiles(tmp_path).size("j.1", 0) == 20 * len(part)


def test_a_log_that_is_too_long_is_cut_and_says_so_and_its_agent_goes_on(tmp_path):
    logs = LogFiles(tmp_path, max_bytes=10)
    assert logs.append("j.1", 0, 0, b"12345678") == 8
    assert logs.append("j.1", 0, 8, b"90ab") == 12
    assert logs.append("j.1", 0, 12, b"cdef") == 16
    assert logs.append("j.1", 0, 12, b"cdef") == 16
    assert logs.read("j.1", 0, 0) == b"1234567890\ndure: the rest of this output was dropped: longer than a log may be\n"
