"""Settings for all tests: no accelerator, reproducible property tests, float64 where a test asks for it."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import hypothesis
import jax
import pytest

hypothesis.settings.register_profile(
    "gmijax", deadline=None, derandomize=True, max_examples=40, print_blob=True, database=None
)
hypothesis.settings.load_profile("gmijax")


@pytest.fixture(scope="module", autouse=True)
def _forget_programs():
    """Programs hold memory maps, a dozen each, and Linux grants 65,530: a worker that kept all would crash."""
    yield
    jax.clear_caches()


@pytest.fixture
def x64():
    """Float64 inside one test."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def strict():
    """No implicit promotion of dtypes or ranks inside one test."""
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield
