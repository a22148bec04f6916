"""Hypothesis repeats the same examples on every machine; ``HYPOTHESIS_PROFILE=search`` looks for new ones."""

import os
from collections.abc import Iterator

import pytest
import structlog
from hypothesis import settings
from tests.postgres import PostgresServer, find_binaries

settings.register_profile("same", derandomize=True, deadline=None)
settings.register_profile("search", derandomize=False, deadline=None, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))


@pytest.fixture(autouse=True)
def _own_logs() -> Iterator[None]:
    """A command that a test ran in this process left its logs going to that test's standard error, which is closed by now."""
    yield
    structlog.reset_defaults()


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A real server; where its programs are not installed (Debian: postgresql) the tests that need it are skipped."""
    binaries = find_binaries()
    if binaries is None:
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    server = PostgresServer(binaries)
    yield server
    server.close()
