import pytest

from gmijax.distances import W1


@pytest.fixture(scope="session")
def known():
    """Makes an exactly known distance."""
    return lambda value, *, given, space="z": W1(value, 0, 0, given, space)
