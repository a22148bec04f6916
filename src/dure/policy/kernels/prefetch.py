"""Records brought into the processor's cache before they are read, several at once.

A search for victims goes from a node to its first segment and on to that one's job. On a large fleet each is a cache miss, and waiting for one
after the other was three quarters of all time at 125,000 nodes. No decision hangs on what is fetched.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import config, types
from numba.core.extending import intrinsic

from dure.policy.kernels.compile import kernel
from dure.policy.kernels.layout import State

#: Nodes whose tenants are fetched together: about as many misses as a core keeps open.
FETCHED = 16
#: A record is fetched up to here: what searches read stands first (`layout`).
_BYTES, _LINE = 128, 64


def _prefetch(_context: Any, record: Any) -> Any:
    """Begin to load the first cache lines of a record."""
    if not isinstance(record, types.Record):
        return None

    def codegen(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        byte, word = ir.IntType(8), ir.IntType(32)
        pointer = byte.as_pointer()
        fetch = builder.module.declare_intrinsic(
            "llvm.prefetch", [pointer], ir.FunctionType(ir.VoidType(), [pointer, word, word, word])
        )
        start = builder.bitcast(args[0], pointer)
        for at in range(0, min(record.size, _BYTES), _LINE):
            # To be read, kept in all caches, data.
            builder.call(fetch, [builder.gep(start, [word(at)]), word(0), word(3), word(1)])
        return context.get_dummy_value()

    return types.void(record), codegen


def _nothing(_record: Any) -> None:
    """In plain Python there is nothing to fetch."""


prefetch: Any = _nothing if getattr(config, "DISABLE_JIT", 0) else intrinsic(_prefetch)


@kernel
def fetch_tenants(S: State, segments: Any, num: int) -> None:
    """Fetch the jobs of `num` nodes by their first segments, int64[num], which are overwritten."""
    while num > 0:
        for i in range(num):
            prefetch(S.job[S.seg[segments[i]].job])
        left = 0
        for i in range(num):
            s = S.seg[segments[i]].node_next
            if s >= 0:
                prefetch(S.seg[s])
                segments[left] = s
                left += 1
        num = left
