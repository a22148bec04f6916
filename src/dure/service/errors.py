"""Refusals as problem documents (RFC 9457)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from fastapi import Response

from dure.model.errors import DureError, InputError

MEDIA_TYPE = "application/problem+json"


@dataclass(eq=False)
class Problem(DureError):
    """A request that is refused.

    Attributes
    ----------
    status : int
        HTTP status, 400 to 599.
    title, detail : str
        What kind of refusal, and what of this request.
    errors : list of {"field", "message"}
    headers : dict
        To be sent along.
    """

    status: int
    title: str
    detail: str = ""
    errors: Sequence[dict[str, str]] = ()
    headers: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.status} {self.title}: {self.detail}"

    def document(self) -> dict[str, Any]:
        """The body."""
        out: dict[str, Any] = {
            "type": "about:blank", "title": self.title, "status": self.status, "detail": self.detail,
        }  # fmt: skip
        if self.errors:
            out["errors"] = list(self.errors)
        return out


def problem_response(problem: Problem) -> Response:
    """A refusal as HTTP says it; in ASCII, because what it quotes need not be whole Unicode."""
    return Response(json.dumps(problem.document()), problem.status, problem.headers, MEDIA_TYPE)


def not_found(what: str, name: str) -> Problem:
    """404: there is none, or it is not the caller's to see."""
    return Problem(404, "Not found", f"no {what} {name!r}")


def forbidden(detail: str) -> Problem:
    """403."""
    return Problem(403, "Forbidden", detail)


def invalid(detail: str, field_name: str = "") -> Problem:
    """422: understood, and wrong."""
    errors = [{"field": field_name, "message": detail}] if field_name else []
    return Problem(422, "Invalid request", detail, errors)


def refused_input(error: InputError) -> Problem:
    """422: a file that came with the request is wrong; says line and field."""
    errors = [{"field": error.field, "message": error.message}] if error.field else []
    return Problem(422, "Invalid request", str(error), errors)


def internal() -> Problem:
    """500: a fault of the service."""
    return Problem(500, "Internal error", "this is a fault of the service; it is in its log")


def unavailable(detail: str) -> Problem:
    """503: this service cannot write now; the same request may succeed later."""
    return Problem(503, "Service unavailable", detail, headers={"Retry-After": "1"})


def busy(later_s: int) -> Problem:
    """503: more is asked than this service can write now; nothing was done. `Dure-Busy` says so to programs."""
    detail = f"too much is asked at one time: come again in {later_s} s"
    return Problem(503, "Service unavailable", detail, headers={"Retry-After": str(later_s), "Dure-Busy": "1"})


def following(leader: str) -> Problem:
    """503: another service leads; nothing was done. `Dure-Leader` says so to programs, and who (empty: not known)."""
    detail = f"this service follows; {leader or 'another'} leads"
    return Problem(503, "Service unavailable", detail, headers={"Retry-After": "1", "Dure-Leader": leader})
