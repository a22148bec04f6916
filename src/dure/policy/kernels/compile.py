"""How kernels are compiled: cached, and once for each function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from numba import njit, types

F = TypeVar("F", bound=Callable[..., Any])


def kernel(function: F) -> F:
    """Compile a function without specialising it on the constants it is called with.

    Numba would compile `f(S, 1)` and `f(S, 2)` apart; for a hundred kernels that calls each other this doubles
    the compiling and gains nothing.
    """
    dispatcher = njit(cache=True)(function)
    if not hasattr(dispatcher, "get_call_template"):
        return function
    template = dispatcher.get_call_template

    def get_call_template(args: Any, kws: Any) -> Any:
        return template(tuple(types.unliteral(a) for a in args), kws)

    dispatcher.get_call_template = get_call_template
    compiled: F = dispatcher
    return compiled
