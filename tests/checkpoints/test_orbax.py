import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType, PartitionSpec

from gmijax.checkpoints import CheckpointError, convert, load_model, restore
from gmijax.models import tensor_sharding

TINY = Path(__file__).parents[1] / "fixtures" / "tiny"


@pytest.fixture(scope="module")
def converted(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("orbax") / "prismatic"
    convert(TINY / "prismatic_dinov2", out, dtype=jnp.float32)
    return out


def test_what_was_written_is_restored(converted):
    found, expected = restore(converted), load_model(TINY / "prismatic_dinov2")
    assert type(found) is type(expected)
    assert found.config == expected.config
    for a, b in zip(jax.tree.leaves(nnx.state(found)), jax.tree.leaves(nnx.state(expected)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_load_model_reads_it_too_in_the_type_asked_for(converted):
    model = load_model(converted, dtype=jnp.bfloat16, param_dtype=jnp.bfloat16)
    assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(model))} == {jnp.dtype(jnp.bfloat16)}


def test_nothing_is_written_over(converted):
    with pytest.raises(FileExistsError, match="give a folder that does not"):
        convert(TINY / "qwen2", converted)


def test_a_folder_that_is_not_whole_is_refused(tmp_path, converted):
    with pytest.raises(CheckpointError, match=r"gmijax.json cannot be read"):
        restore(tmp_path)
    content = json.loads((converted / "gmijax.json").read_text())
    (tmp_path / "gmijax.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="its weights cannot be restored"):
        restore(tmp_path)
    (tmp_path / "gmijax.json").write_text(json.dumps(content | {"format": 2}))
    with pytest.raises(CheckpointError, match="format 2; only 1 is read"):
        restore(tmp_path)


def test_rules_of_sharding():
    mesh = jax.make_mesh((1,), ("model",), axis_types=(AxisType.Auto,))
    place = tensor_sharding(mesh)
    assert place("layers.attention.q.kernel", (2, 8, 8)).spec == PartitionSpec(None, None, "model")
    assert place("layers.attention.o.kernel", (2, 8, 8)).spec == PartitionSpec(None, "model")
    assert place("layers.qkv.bias", (2, 24)).spec == PartitionSpec(None, "model")
    assert place("embed.embedding", (8, 4)).spec == PartitionSpec("model")
    assert place("layers.out.bias", (2, 8)).spec == place("norm.scale", (8,)).spec == PartitionSpec()
    with pytest.raises(ValueError, match="axis = 'tensor' is not one of the mesh's, 'model'"):
        tensor_sharding(mesh, "tensor")


SHARDED = """
    import sys
    import jax, numpy as np
    from flax import nnx
    from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
    from safetensors.numpy import load_file
    from gmijax.checkpoints import load_model
    from gmijax.models import tensor_sharding
    from gmijax.scoring import next_token_loss

    source, written = sys.argv[1:]
    mesh = jax.make_mesh((2, 4), ("batch", "model"), axis_types=(AxisType.Auto,) * 2)
    inputs = load_file(source + "/inputs.safetensors")
    one = load_model(source)
    many = load_model(source, sharding=tensor_sharding(mesh))
    restored = load_model(written, sharding=tensor_sharding(mesh))
    leaves = [jax.tree.leaves(nnx.state(m)) for m in (one, many, restored)]
    assert sum(not leaf.sharding.is_fully_replicated for leaf in leaves[1]) > 15
    for a, b, c in zip(*leaves, strict=True):
        assert len(b.sharding.device_set) == 8 and b.sharding == c.sharding
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))
        np.testing.assert_array_equal(np.asarray(a), np.asarray(c))

    def run(model, put):
        ids, mask = (put(inputs[name].astype("i4")) for name in ("input_ids", "attention_mask"))
        media = model.Media(put(inputs["pixel_values"]))
        output = model(ids, media, attention_mask=mask, hook_points=model.hook_points)
        def loss(soft):
            return next_token_loss(model(ids, media, soft_tokens=soft, attention_mask=mask).logits[:, :7], ids)
        gradient = jax.grad(loss)(output.hidden_states["adapter_output"])
        return {**output.hidden_states, "logits": output.logits, "gradient": gradient}

    split = lambda x: jax.device_put(x, NamedSharding(mesh, P("batch")))
    expected, found = run(one, lambda x: x), run(restored, split)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=0, atol=1e-5 * np.abs(value).max(), err_msg=name)
"""


@pytest.mark.slow
def test_eight_devices_give_the_numbers_of_one(converted):
    env = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    command = [sys.executable, "-c", textwrap.dedent(SHARDED), str(TINY / "prismatic_dinov2"), str(converted)]
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
