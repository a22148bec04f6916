"""What can go wrong between a client and the service."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import httpx

from dure.model.errors import DureError


@dataclass(frozen=True)
class FieldError:
    """One value of a request that the service refused."""

    field: str
    message: str

    def __str__(self) -> str:
        """``field: message``."""
        return f"{self.field}: {self.message}" if self.field else self.message


@dataclass(eq=False)
class ApiError(DureError):
    """The service refused a call (RFC 9457 problem document).

    Attributes
    ----------
    status : int
        HTTP status, 400 to 599.
    title, detail : str
        What was wrong in general, and with this call.
    errors : sequence of FieldError
        With 422: which values.
    """

    status: int
    title: str
    detail: str = ""
    errors: Sequence[FieldError] = ()

    def __str__(self) -> str:
        """One line with all that the service said."""
        said = self.detail or self.title
        fields = "; ".join(str(error) for error in self.errors if error.message not in said)
        return f"{said} ({fields})" if fields else said


class UnreachableError(DureError):
    """No answer from the service: nobody listens there, or the connection broke."""


def api_error(response: httpx.Response) -> ApiError:
    """The problem that a response with status 400 or more tells of, also where it is no problem document."""
    try:
        problem = response.json()
    except ValueError:
        problem = None
    if not isinstance(problem, dict):
        problem = {}
    errors = problem.get("errors")
    return ApiError(
        response.status_code,
        str(problem.get("title") or response.reason_phrase or f"status {response.status_code}"),
        str(problem.get("detail") or ""),
        tuple(
            FieldError(str(error.get("field", "")), str(error.get("message", "")))
            for error in (errors if isinstance(errors, list) else ())
            if isinstance(error, dict)
        ),
    )
