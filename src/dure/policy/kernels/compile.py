"""How kernels are compiled: cached, once for each function, and by one process at a time."""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from numba import config, types
from numba.core.compiler_lock import global_compiler_lock
from numba.core.registry import CPUDispatcher

from dure.policy.kernels.parts import PartCache, PartCompiler

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


def is_compiled(of: Compiled) -> bool:
    """Whether some process has compiled it by `compile_unless_taken`."""
    folder = _folder()
    return bool(of.overloads) or (folder is not None and (folder / f"{of.name}.done").exists())


def compile_unless_taken(of: Compiled, args: tuple[Any, ...]) -> bool:
    """Compile a kernel or a part for arguments of these types; False where another process is at it."""
    with claimed(of.name, is_waiting=False) as is_mine:
        if is_mine:
            of.compile_claimed(args)
        folder = _folder()
        if is_mine and folder is not None:
            (folder / f"{of.name}.done").touch()
        return is_mine


class Compiled(CPUDispatcher):
    """What Numba compiles, by one process at a time."""

    #: Among all kernels and parts.
    name: str

    def compile(self, sig: Any) -> Any:
        """Numba's, with this process's claim or after another's."""
        # Numba's lock first: a thread that waited for it with the claim in hand would stop who has it and wants the claim.
        with global_compiler_lock:
            if sig in self.overloads:
                return super().compile(sig)
            with claimed(self.name):
                return super().compile(sig)

    def compile_claimed(self, args: tuple[Any, ...]) -> None:
        """Numba's, by who has the claim."""
        super().compile(args)


class Part(Compiled):
    """A kernel as other kernels call it."""

    def __init__(self, function: Callable[..., Any], options: dict[str, Any]) -> None:
        super().__init__(function, targetoptions={**options, "no_cpython_wrapper": True}, pipeline_class=PartCompiler)
        self.name = f"{_name_of(function)}.part"
        self._cache = PartCache(function)

    def add_overload(self, cres: Any) -> None:
        """Numba's, without the table of what Python may call."""
        self.overloads[tuple(cres.signature.args)] = cres


class Kernel(Compiled):
    """A kernel as Python calls it, and for kernels the way to its part."""

    def __init__(self, function: Callable[..., Any], options: dict[str, Any]) -> None:
        super().__init__(function, targetoptions=options)
        self.name = _name_of(function)
        self.part = Part(function, options)
        self.enable_caching()

    def add_overload(self, cres: Any) -> None:
        """Numba's; and its parts' environments, of which none has told Numba's engine, are set."""
        super().add_overload(cres)
        for environment in cres._find_referenced_environments():
            cres.codegen.set_env(environment.env_name, environment)

    def get_call_template(self, args: Any, kws: Any) -> Any:
        """The part's, for another kernel's call."""
        return self.part.get_call_template(tuple(_widened(types.unliteral(of)) for of in args), kws)

    def get_overload(self, sig: Any) -> Any:
        """The part's, for another kernel's call."""
        return self.part.get_overload(sig)


def _name_of(function: Callable[..., Any]) -> str:
    return f"{function.__module__}.{function.__qualname__}"


_OPTIONS: dict[str, Any] = {
    "nopython": True,
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
    if getattr(config, "DISABLE_JIT", 0):
        return function
    compiled: Any = Kernel(function, {**_OPTIONS, "forceinline": is_inlined})
    return compiled
