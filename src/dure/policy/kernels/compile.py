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
def claimed(name: str, *, is_waiting: bool = True) -> Iterator[bool]:
    """Let one process at a time compile a function; the others wait and then find it in the cache.

    A caller is claimed before what it calls, and no kernel calls itself: two processes cannot wait for each other.
    Without `is_waiting` it is False where another process has the claim.
    """
    folder = _folder()
    if folder is None:
        yield True
        return
    with (folder / f"{name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX if is_waiting else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def _folder() -> Path | None:
    """Where compiled kernels are kept; None where Numba decides it for each file."""
    folder = Path(str(getattr(config, "CACHE_DIR", "")))
    if not folder.name:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def is_compiled(dispatcher: Any) -> bool:
    """Whether some process has compiled a kernel by `compile_unless_taken`."""
    folder = _folder()
    return bool(dispatcher.overloads) or (folder is not None and (folder / f"{name_of(dispatcher.py_func)}.done").exists())


def compile_unless_taken(dispatcher: Any, args: tuple[Any, ...]) -> bool:
    """Compile a kernel for arguments of these types; False where another process is at it."""
    name = name_of(dispatcher.py_func)
    with claimed(name, is_waiting=False) as is_mine:
        if is_mine and args not in dispatcher.overloads:
            type(dispatcher).get_call_template(dispatcher, args, {})
        folder = _folder()
        if is_mine and folder is not None:
            (folder / f"{name}.done").touch()
        return is_mine


def name_of(function: Any) -> str:
    """A kernel's name among all kernels."""
    return f"{function.__module__}.{function.__qualname__}"


_OPTIONS: dict[str, Any] = {
    "cache": True,
    "nogil": True,
    # Nobody calls kernels from C: without that wrapper an eighth of the compiling is saved.
    "no_cfunc_wrapper": True,
}


def _widened(of: Any) -> Any:
    """Whole numbers of fewer bits, as fields of records are, are passed as 64: one compiled form for each function."""
    return types.int64 if of in (types.int8, types.int16, types.int32) else of


def kernel(function: F) -> F:
    """Compile a function without specialising it on the constants it is called with.

    Numba would compile `f(S, 1)` and `f(S, 2)` apart; for a hundred kernels that calls each other this doubles
    the compiling and gains nothing.
    """
    return _compiled(function, is_inlined=False)


def inlined_kernel(function: F) -> F:
    """`kernel`, and LLVM puts it into what calls it: for small ones in hot loops, of which the call is a large part."""
    return _compiled(function, is_inlined=True)


def _compiled(function: F, *, is_inlined: bool) -> F:
    dispatcher: Any = njit(**_OPTIONS, forceinline=is_inlined)(function)
    if not hasattr(dispatcher, "get_call_template"):
        return function
    template = dispatcher.get_call_template
    name = name_of(function)

    def get_call_template(args: Any, kws: Any) -> Any:
        plain = tuple(_widened(types.unliteral(a)) for a in args)
        if plain in dispatcher.overloads:
            return template(plain, kws)
        with claimed(name):
            return template(plain, kws)

    dispatcher.get_call_template = get_call_template
    compiled: F = dispatcher
    return compiled
