import json
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
    from jax.sharding import AxisType
    from gmijax.checkpoints import load_model
    from gmijax.models import tensor_sharding

    source, written = sys.argv[1:]
    mesh = jax.make_mesh((2, 4), ("batch", "model"), axis_types=(AxisType.Auto,) * 2)
    one = load_model(source)
    many = load_model(source, sharding=tensor_sharding(mesh))
    restored = load_model(written, sharding=tensor_sharding(mesh))
    leaves = [jax.tree.leaves(nnx.state(m)) for m in (one, many, restored)]
    assert sum(not leaf.sharding.is_fully_replicated for leaf in leaves[1]) > 15
    for a, b, c in zip(*leaves, strict=True):
        assert len(b.sharding.device_set) == 8 and b.sharding == c.sharding
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))
        np.testing.assert_array_equal(np.asarray(a), np.asarray(c))
"""


@pytest.mark.slow
def test_restores_on_eight_devices(converted, run_program):
    run_program(SHARDED, TINY / "prismatic_dinov2", converted, devices=8)
