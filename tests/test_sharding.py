"""A NamedSharding on the sample axis changes no number: every estimator on 8 simulated devices and on one."""

import pytest

SCRIPT = """
import jax, jax.numpy as jnp, numpy as np
from gmijax import rates

assert len(jax.devices()) == 8, jax.devices()
rng = np.random.default_rng(0)
y = rng.normal(size=(64, 4))
z = y + 0.8 * rng.normal(size=(64, 4))
scores = jnp.asarray(-0.5 * ((y[:, None] - z[None]) ** 2).sum(-1), jnp.float32)
labels = jnp.asarray(rng.integers(0, 4, 64), jnp.int32)
logits = jnp.asarray(rng.normal(size=(64, 4)), jnp.float32) + 2 * jax.nn.one_hot(labels, 4)
mesh = jax.make_mesh((8,), ("samples",), axis_types=(jax.sharding.AxisType.Auto,))
by_row = jax.NamedSharding(mesh, jax.P("samples"))

estimators = {
    "gmi": (lambda s: rates.gmi(s), (scores,)),
    "gmi_curve": (lambda s: rates.gmi_curve(s, np.linspace(0, 2, 5)), (scores,)),
    "gmi_bootstrap": (lambda s: rates.gmi_bootstrap(s, draws=50, key=jax.random.key(0)), (scores,)),
    "zero_test": (lambda s: rates.zero_test(s, draws=50, key=jax.random.key(0)), (scores,)),
    "gmi_labels": (rates.gmi_labels, (logits, labels)),
    "lm_rate": (rates.lm_rate, (logits, labels)),
}
for name, (estimator, arguments) in estimators.items():
    sharded = [jax.device_put(argument, by_row) for argument in arguments]
    assert len(sharded[0].sharding.device_set) == 8
    one, eight = jax.tree.leaves(estimator(*arguments)), jax.tree.leaves(estimator(*sharded))
    assert len(one) == len(eight) > 0
    for a, b in zip(one, eight):
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=2e-5, atol=2e-5, err_msg=name)
    print(name)
"""


@pytest.mark.slow
def test_eight_devices_give_the_numbers_of_one(run_program):
    assert len(run_program(SCRIPT, devices=8).split()) == 6
