"""Edits, gradients and swaps give the same answer on 8 devices as on one."""

import pytest

PROGRAM = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from gmijax import interventions as iv, stats

assert len(jax.devices()) == 8
mesh = jax.make_mesh((8,), ("samples",), axis_types=(AxisType.Auto,))
rng, key = np.random.default_rng(0), jax.random.key(0)
x = rng.normal(size=(16, 3, 12)).astype("f4")
rows = np.linalg.qr(rng.normal(size=(12, 5)))[0].T.astype("f4")
mask = np.arange(48).reshape(16, 3) % 4 > 0
alpha = np.array([0.1, 0.9, 0.3, 1.5, 0.7], "f4")
logits = rng.normal(size=(2, 16, 9)).astype("f4")

def run(place):
    z, m = place(x), place(mask)
    yield iv.project_out(z, rows, mask=m)
    yield iv.keep_only(z, rows, mask=m)
    yield iv.add_noise(z, rows, 0.5, mask=m, key=key)
    yield iv.swap_means(z, rows, partner=np.roll(np.arange(16), 1), mask=m)
    yield iv.gradient_projection(z, rows, alpha, mask=m, draws=20, key=key).magnitudes
    yield iv.swap_effect(place(logits[0]), place(logits[1]), place(np.ones(16, "f4"))).value
    yield stats.sign_flip_test(place(logits[0, :, 0]), draws=99, key=key).p_value

def shard(a):
    return jax.device_put(a, NamedSharding(mesh, PartitionSpec("samples")))

for one, many in zip(run(jnp.asarray), run(shard), strict=True):
    np.testing.assert_allclose(one, many, rtol=1e-5, atol=1e-6)
kept = iv.project_out(shard(x), rows).sharding
assert kept.is_equivalent_to(NamedSharding(mesh, PartitionSpec("samples")), 3), kept
print("equal")
"""


@pytest.mark.slow
def test_eight_devices_agree_with_one(run_program):
    assert run_program(PROGRAM, devices=8) == "equal"
