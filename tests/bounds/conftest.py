import pytest

from gmijax import distances


@pytest.fixture(scope="session")
def known():
    """Makes an exactly known distance."""
    return lambda value, *, given, space="z": distances.known(value, given=given, space=space)
