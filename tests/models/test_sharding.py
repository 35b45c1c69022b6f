"""Composed models on 8 simulated devices give the numbers of one: hidden states, logits and gradients."""

from pathlib import Path

import pytest

FIXTURES = Path(__file__).parents[1] / "fixtures" / "tiny"
PROGRAM = """
import sys
import jax, numpy as np
from flax import nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from safetensors.numpy import load_file
from gmijax.checkpoints import load_model
from gmijax.models import tensor_sharding
from gmijax.scoring import next_token_loss

folder = sys.argv[1]
mesh = jax.make_mesh((2, 4), ("batch", "model"), axis_types=(AxisType.Auto,) * 2)
inputs = load_file(f"{folder}/inputs.safetensors")
inputs.pop("labels")

def run(model, place):
    arrays = {name: place(array) for name, array in inputs.items()}
    ids, mask = arrays.pop("input_ids"), arrays.pop("attention_mask")
    media = model.Media(**arrays)
    output = model(ids, media, attention_mask=mask, hook_points=model.hook_points)
    def loss(soft):
        logits = model(ids, media, soft_tokens=soft, attention_mask=mask).logits  # with image tokens there are more
        return next_token_loss(logits[:, : ids.shape[1]], ids)
    gradient = jax.grad(loss)(output.hidden_states["adapter_output"])
    return {**output.hidden_states, "logits": output.logits, "gradient": gradient}

def split(array):
    rows = "batch" if array.ndim and array.shape[0] % 2 == 0 else None
    return jax.device_put(array, NamedSharding(mesh, PartitionSpec(rows) if array.ndim else PartitionSpec()))

alone = run(load_model(folder), lambda array: array)
model = load_model(folder, sharding=tensor_sharding(mesh))
spread = sum(not leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(nnx.state(model)))
together = run(model, split)
for name, value in alone.items():
    np.testing.assert_allclose(together[name], value, rtol=0, atol=1e-5 * np.abs(value).max(), err_msg=name)
print("equal", spread, len(together["logits"].sharding.device_set))
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ultravox", "qwen2_audio", "prismatic_dinov2"])
def test_eight_devices_give_the_numbers_of_one(name, run_program):
    word, spread, devices = run_program(PROGRAM, FIXTURES / name, devices=8).split()
    assert word == "equal"
    assert int(spread) > 10  # most matrices were split
    assert int(devices) == 8
