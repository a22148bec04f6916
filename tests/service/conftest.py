"""What tests of the service share."""

import pytest
import structlog
from tests.service.running import Running


@pytest.fixture(autouse=True)
def _quiet():
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))


@pytest.fixture
def running(tmp_path):
    """A service of this test's own."""
    found = Running(tmp_path)
    yield found
    found.close()


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A service for all tests of a module."""
    found = Running(tmp_path_factory.mktemp("service"))
    yield found
    found.close()
