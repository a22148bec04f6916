"""How kernels are compiled: cached, once for each function, and by one process at a time."""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from numba import config, njit, types

F = TypeVar("F", bound=Callable[..., Any])


@contextmanager
def claimed(name: str) -> Iterator[None]:
    """Let one process at a time compile a function; the others wait and then find it in the cache.

    A caller is claimed before what it calls, and no kernel calls itself: two processes cannot wait for each other.
    """
    folder = Path(str(getattr(config, "CACHE_DIR", "")))
    if not folder.name:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def kernel(function: F) -> F:
    """Compile a function without specialising it on the constants it is called with.

    Numba would compile `f(S, 1)` and `f(S, 2)` apart; for a hundred kernels that calls each other this doubles
    the compiling and gains nothing.
    """
    dispatcher = njit(cache=True, nogil=True)(function)
    if not hasattr(dispatcher, "get_call_template"):
        return function
    template = dispatcher.get_call_template
    name = f"{function.__module__}.{function.__qualname__}"

    def get_call_template(args: Any, kws: Any) -> Any:
        plain = tuple(types.unliteral(a) for a in args)
        if plain in dispatcher.overloads:
            return template(plain, kws)
        with claimed(name):
            return template(plain, kws)

    dispatcher.get_call_template = get_call_template
    compiled: F = dispatcher
    return compiled
