"""A process that is timed: ``python -m dure.ran.measure_worker`` reads one line of JSON and writes one, or is a tenant until it is told to go.

A share of a GPU is given to a process before it begins (MPS, `CUDA_MPS_ACTIVE_THREAD_PERCENTAGE`), that of a CPU is a number of threads; so each share is a process.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from types import FrameType

import torch

from dure.ran.receive import Cell, Slot

#: Runs before those that count.
_WARM = 3


def _settle(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def timed(device: str, threads: int, slots: list[dict[str, float]], repeats: int) -> list[dict[str, object]]:
    """Microseconds of each repetition of each slot's downlink, uplink and decoding."""
    torch.set_num_threads(threads)
    found: list[dict[str, object]] = []
    for said in slots:
        slot = Slot(int(said["prb"]), int(said["layers"]), said["efficiency"], int(said["iterations"]))
        cell = Cell(slot, device)
        row: dict[str, object] = dict(said)
        for name, work in (("dl_us", cell.downlink), ("ul_us", cell.uplink)):
            samples = []
            for number in range(_WARM + repeats):
                _settle(device)
                began = time.perf_counter()
                work()
                _settle(device)
                if number >= _WARM:
                    samples.append((time.perf_counter() - began) * 1e6)
            row[name] = samples
        found.append(row)
    return found


def tenant(device: str, threads: int, kernel_ms: float, rounds: int) -> None:
    """Keep the device busy with kernels of so many milliseconds until SIGUSR1, then say when the last one ended (monotonic, s); again and again."""
    torch.set_num_threads(threads)
    is_told: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        is_told.append(number)

    signal.signal(signal.SIGUSR1, note)
    matrix = torch.randn(256, 256, device=device)
    num = 1
    while True:  # as many products as take so long
        _settle(device)
        began = time.perf_counter()
        for _ in range(num):
            matrix = torch.nn.functional.normalize(matrix @ matrix)
        _settle(device)
        took_ms = (time.perf_counter() - began) * 1e3
        if took_ms >= kernel_ms:
            break
        num = max(num + 1, int(num * min(4.0, 1.1 * kernel_ms / max(took_ms, 1e-3))))
    for _ in range(rounds):
        is_told.clear()
        print("up", flush=True)
        while not is_told:
            for _ in range(num):
                matrix = torch.nn.functional.normalize(matrix @ matrix)
            _settle(device)
        print(json.dumps({"gone_s": time.monotonic(), "kernel_ms": took_ms}), flush=True)


def main() -> None:
    """As the line says."""
    said = json.loads(sys.stdin.readline())
    if "kernel_ms" in said:
        tenant(said["device"], said["threads"], said["kernel_ms"], said["rounds"])
    else:
        print(json.dumps(timed(said["device"], said["threads"], said["slots"], said["repeats"])))


if __name__ == "__main__":
    main()
