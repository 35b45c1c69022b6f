"""The same answers on one device and on eight."""

import pytest

PROGRAM = """
import jax, numpy as np
from gmijax import modes, stats
assert len(jax.devices()) == 8
rng = np.random.default_rng(0)
modal, text = (rng.normal(size=(2, 160, 24)) * 0.8 ** np.arange(24)).astype(np.float32)
mesh = jax.make_mesh((8,), ("rows",), axis_types=(jax.sharding.AxisType.Auto,))
rows = jax.NamedSharding(mesh, jax.P("rows"))
sharded = [jax.device_put(x, rows) for x in (modal, text)]
together = jax.jit(lambda modal, text: modes.align(modal, text, top=3))
one, eight = together(modal, text), together(*sharded)
for first, second in zip(jax.tree.leaves(one), jax.tree.leaves(eight), strict=True):
    np.testing.assert_allclose(second, first, rtol=2e-3, atol=1e-5)
np.testing.assert_allclose(eight.alpha, one.alpha, rtol=1e-4)
moments = [stats.Moments.empty(24, full=True).update(x).covariance for x in (modal, sharded[0])]
np.testing.assert_allclose(*moments, rtol=1e-5, atol=1e-7)
wide = (rng.normal(size=(160, 200)) * np.arange(1, 201) ** -0.55).astype(np.float32)
one = modes.eigenmodes(wide, top=6, path="device")
eight = modes.eigenmodes(jax.device_put(wide, rows), top=6)
np.testing.assert_allclose(eight.eigenvalues, one.eigenvalues, rtol=1e-5)
print("same")
"""


@pytest.mark.slow
def test_eight_devices_give_the_same_numbers(run_program):
    assert run_program(PROGRAM, devices=8) == "same"
