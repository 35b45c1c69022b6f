import pytest

from gmijax.distances import known


@pytest.fixture(scope="session")
def known():
    """Makes an exactly known distance."""
    return lambda value, *, given, space="z": known(value, given=given, space=space)
