"""Settings for all tests: no accelerator, reproducible property tests, float64 where a test asks for it."""

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable

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


@pytest.fixture(scope="session")
def run_program() -> Callable[..., str]:
    """Runs Python code in a process of its own, on so many simulated devices, and returns what it printed."""

    def run(code: str, *arguments, devices: int = 1) -> str:
        flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
        command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"XLA_FLAGS": flags})
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    return run


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
