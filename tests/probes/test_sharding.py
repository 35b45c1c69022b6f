"""Probes on rows that lie on 8 devices are those on one; a shape compiles once."""

import chex
import jax
import numpy as np
import pytest

from gmijax import probes

PROGRAM = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from gmijax import probes

assert len(jax.devices()) == 8
mesh = jax.make_mesh((8,), ("samples",), axis_types=(AxisType.Auto,))
rng = np.random.default_rng(0)
labels = rng.integers(0, 3, 64)
x = (rng.normal(size=(64, 10)) + 0.8 * np.eye(3, 10)[labels]).astype("f4")
held_out = probes.splits.stratified(labels, seeds=(0, 1))
spread = jax.device_put(x, NamedSharding(mesh, PartitionSpec("samples")))
assert len(spread.sharding.device_set) == 8
for method in ("path", "converged"):
    fits = [probes.fit(rows, labels, weights=~held_out, penalty=[1.0, 10.0], method=method) for rows in (x, spread)]
    for one, many in zip(jax.tree.leaves(fits[0]), jax.tree.leaves(fits[1]), strict=True):
        np.testing.assert_allclose(one, many, rtol=2e-4, atol=2e-5)
    np.testing.assert_array_equal(probes.predict(fits[0], x), probes.predict(fits[1], spread))
print("equal")
"""


@pytest.mark.slow
def test_eight_devices_agree_with_one(run_program):
    assert run_program(PROGRAM, devices=8) == "equal"


def test_one_compilation_a_shape():
    """Other rows, labels, penalties and tolerances of the same shapes trace nothing new."""
    chex.clear_trace_counter()
    counted = jax.jit(
        chex.assert_max_traces(lambda x, y, penalty: probes.fit(x, y, penalty=penalty, classes=3).objective, n=1)
    )
    for seed in range(3):
        rng = np.random.default_rng(seed)
        value = counted(rng.normal(size=(20, 4)).astype("f4"), rng.integers(0, 3, 20), np.float32(1 + seed))
        assert np.isfinite(value)
