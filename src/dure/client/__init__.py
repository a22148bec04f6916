"""The typed client of the service's API, for programs and for the commands.

>>> with Client() as dure:                                    # DURE_URL and DURE_TOKEN, or what `dure up` left
...     job = dure.submit(JobSpec(command=("python", "train.py")))
...     print(dure.job(job.job_id).state)

`AsyncClient` has the same methods, to be awaited. Inside a job, `dure.client.job` speaks for it.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dure.client.client import AsyncClient as AsyncClient
    from dure.client.client import Client as Client
    from dure.client.errors import ApiError as ApiError
    from dure.client.errors import UnreachableError as UnreachableError

#: Where each name lives: a job that only wants `dure.client.job` does not load an HTTP client on every rank.
_HOMES = {"AsyncClient": "client", "Client": "client", "ApiError": "errors", "UnreachableError": "errors"}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
