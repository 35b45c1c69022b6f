import io
import json
import os
import pickle
import shutil
import sys
import types
import zipfile
from collections import OrderedDict
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from gmijax.checkpoints import CheckpointError, load_model, open_checkpoint
from gmijax.checkpoints._torch import TorchFile, TorchWeights

SHARDS = Path(__file__).parents[1] / "fixtures" / "tiny" / "bin_shards"
ONE, TWO = "pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"
INDEX = "pytorch_model.bin.index.json"


@pytest.fixture
def shards(tmp_path) -> Path:
    return Path(shutil.copytree(SHARDS, tmp_path / "shards"))


@pytest.fixture
def torch_like(monkeypatch):
    """Modules of torch's names, so that a pickle can refer to them."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    for name in ("FloatStorage", "BFloat16Storage", "LongStorage"):
        setattr(torch, name, type(name, (), {"__module__": "torch", "__qualname__": name}))

    def _rebuild_tensor_v2(*arguments):
        return arguments

    def _rebuild_parameter(*arguments):
        return arguments

    for function in (_rebuild_tensor_v2, _rebuild_parameter):
        function.__module__, function.__qualname__ = "torch._utils", function.__name__
        setattr(utils, function.__name__, function)
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "torch._utils", utils)
    return torch, utils


class Tensor:
    """A tensor to be pickled as torch does it."""

    def __init__(self, member, array, offset=0, shape=None, strides=None, kind="FloatStorage", parameter=False):
        self.member, self.array, self.offset, self.kind, self.parameter = member, array, offset, kind, parameter
        self.shape = array.shape if shape is None else shape
        self.strides = tuple(s // array.itemsize for s in array.strides) if strides is None else strides


def write(file: Path, tree, torch_like, sizes=None) -> Path:
    """Writes an archive in torch's layout; `sizes` overrides the numbers of elements that the pickle states."""
    torch, utils = torch_like
    storages = {}

    class Reference:
        def __init__(self, tensor):
            self.tensor = tensor

    class Call:
        def __init__(self, function, arguments):
            self.function, self.arguments = function, arguments

        def __reduce__(self):
            return self.function, self.arguments

    def prepare(value):
        if isinstance(value, dict):
            return type(value)((key, prepare(inner)) for key, inner in value.items())
        if not isinstance(value, Tensor):
            return value
        storages[value.member] = value.array
        rebuilt = Call(
            utils._rebuild_tensor_v2, (Reference(value), value.offset, value.shape, value.strides, False, OrderedDict())
        )
        return Call(utils._rebuild_parameter, (rebuilt, True, OrderedDict())) if value.parameter else rebuilt

    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            if not isinstance(value, Reference):
                return None
            tensor = value.tensor
            size = (sizes or {}).get(tensor.member, tensor.array.size)
            return ("storage", getattr(torch, tensor.kind), tensor.member, "cpu", size)

    buffer = io.BytesIO()
    Pickler(buffer, protocol=2).dump(prepare(tree))
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", buffer.getvalue())
        archive.writestr("archive/byteorder", "little")
        for member, array in storages.items():
            archive.writestr(f"archive/data/{member}", np.ascontiguousarray(array).tobytes())
    return file


def rewrite(file: Path, **members: bytes | None) -> None:
    """Replaces members of an archive by the last part of their names; None drops one."""
    with zipfile.ZipFile(file) as archive:
        content = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in content.items():
            changed = members.get(name.rpartition("/")[2].replace(".", "_"), data)
            if changed is not None:
                archive.writestr(name, changed)


def refusal(path) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_model(path)
    return str(caught.value)


# What torch wrote


def test_shards_of_torch_load():
    checkpoint = open_checkpoint(SHARDS)
    assert checkpoint.kind == "torch"
    up = "model.layers.1.mlp.up_proj.weight"
    assert checkpoint.weights.shape(up) == (24, 16)
    assert checkpoint.weights.read(up).dtype == np.float16
    load_model(SHARDS)


def test_one_file_without_an_index_loads(shards):
    (shards / INDEX).unlink()
    (shards / ONE).rename(shards / "pytorch_model.bin")
    assert "missing" in refusal(shards)  # it is read, and half of the tensors are not there


# What may be in such a file


def test_views_types_and_nesting(tmp_path, torch_like):
    base = np.arange(24, dtype=np.float32)
    half = np.arange(6).astype(ml_dtypes.bfloat16).reshape(2, 3)
    tree = OrderedDict(
        plain=Tensor("0", base.reshape(4, 6)),
        transposed=Tensor("0", base, shape=(6, 4), strides=(1, 6)),
        slice=Tensor("0", base, offset=7, shape=(2, 3), strides=(6, 2)),
        row=Tensor("0", base, offset=2, shape=(3,), strides=(1,), parameter=True),
        scalar=Tensor("0", base, offset=23, shape=(), strides=()),
        empty=Tensor("0", base, shape=(0, 4), strides=(4, 1)),
        inner={"half": Tensor("1", half, kind="BFloat16Storage")},
    )
    weights = TorchWeights(tmp_path, [(write(tmp_path / "a.bin", {"model": tree}, torch_like), ("model",))])
    grid = base.reshape(4, 6)
    expected = {
        "plain": grid,
        "transposed": grid.T,
        "slice": grid[1:3, 1:6:2],
        "row": base[2:5],
        "scalar": base[23],
        "empty": np.zeros((0, 4)),
        "inner.half": half,
    }
    assert set(weights.keys()) == set(expected)
    for key, value in expected.items():
        assert weights.shape(key) == value.shape
        np.testing.assert_array_equal(weights.read(key), value, err_msg=key)
    assert weights.read("inner.half").dtype == ml_dtypes.bfloat16


@pytest.mark.parametrize(
    ("tensor", "sizes", "message"),
    [
        (Tensor("0", np.zeros(4, "f4"), offset=1), None, "w reaches beyond its storage"),
        (Tensor("0", np.zeros(4, "f4"), shape=(2, 2), strides=(3, 1)), None, "w reaches beyond its storage"),
        (Tensor("0", np.zeros(4, "f4"), offset=3, strides=(-1,)), None, "w reaches beyond its storage"),
        (Tensor("0", np.zeros(4, "f4")), {"0": 5}, "has 16 bytes and should have 20"),
        (np.float64(1.0), None, "numpy"),
        (3, None, "w is a int, not a tensor"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(tmp_path, torch_like, tensor, sizes, message):
    file = write(tmp_path / "a.bin", {"w": tensor}, torch_like, sizes)
    with pytest.raises(CheckpointError, match=message):
        TorchWeights(tmp_path, [(file, ())])


def test_integers_are_no_weights(tmp_path, torch_like):
    tree = {"steps": Tensor("0", np.arange(3), kind="LongStorage")}
    weights = TorchWeights(tmp_path, [(write(tmp_path / "a.bin", tree, torch_like), ())])
    with pytest.raises(CheckpointError, match="steps is stored as int64"):
        weights.read("steps")


# What must not be executed


class Evil:
    """Runs a command when it is unpickled, by any of three ways."""

    def __init__(self, *how):
        self.how = how

    def __reduce__(self):
        return self.how


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_pickle_that_calls_something_is_refused_and_does_nothing(shards, tmp_path, protocol):
    trace = tmp_path / "executed"
    tree = {
        "a": Evil(os.system, (f"touch {trace}",)),
        "b": Evil(eval, (f"open({str(trace)!r}, 'w')",)),
        "c": [Evil(Path, (str(trace),)), Evil(getattr, ("text", "upper"))],
    }
    rewrite(shards / ONE, data_pkl=pickle.dumps(tree, protocol=protocol))
    message = refusal(shards)
    assert not trace.exists()
    for word in ("system", "eval", "getattr", "nothing was executed"):
        assert word in message, message


def test_attributes_of_what_is_known_are_not_reached(tmp_path):
    """`collections.OrderedDict.fromkeys` is not `collections.OrderedDict`."""
    file = tmp_path / "a.bin"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("x/data.pkl", b"\x80\x04\x8c\x0bcollections\x8c\x14OrderedDict.fromkeys\x93.")
    with pytest.raises(CheckpointError, match=r"asks for collections.OrderedDict.fromkeys"):
        TorchFile(file)


# Damage


@pytest.mark.parametrize("kept", [0, 4, 200, 0.5, -1])
def test_a_short_file_is_refused(shards, kept):
    content = (shards / TWO).read_bytes()
    (shards / TWO).write_bytes(content[: int(kept * len(content)) if isinstance(kept, float) else kept])
    message = refusal(shards)
    assert f"{TWO} is not a zip archive as torch 1.6" in message


def test_flipped_bytes_are_noticed(shards):
    with zipfile.ZipFile(shards / TWO) as archive:
        info = next(info for info in archive.infolist() if info.filename.endswith("data/1"))
    content = bytearray((shards / TWO).read_bytes())
    content[info.header_offset + 200] ^= 0xFF
    (shards / TWO).write_bytes(bytes(content))
    assert "cannot be read" in refusal(shards) or "holds NaN" in refusal(shards)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"data_pkl": b"\x80\x02}q\x00."}, "lm_head.weight is not in"),
        ({"data_pkl": b"\x80\x02junk"}, "its pickle is damaged"),
        ({"data_pkl": pickle.dumps([1])}, "holds a list, not a dictionary"),
        ({"data_pkl": None}, "0 data.pkl"),
        ({"byteorder": b"big"}, "big-endian"),
        ({"0": None}, "data/0, which the archive does not hold"),
    ],
)
def test_damaged_archives_are_refused(shards, members, message):
    rewrite(shards / ONE, **members)
    assert message in refusal(shards)


def test_index_and_shards_must_agree(shards):
    index = json.loads((shards / INDEX).read_text())["weight_map"]
    moved = next(key for key, name in index.items() if name == ONE)
    (shards / INDEX).write_text(json.dumps({"weight_map": {**index, moved: TWO, "ghost": ONE}}))
    message = refusal(shards)
    assert f"{moved} is in {ONE}, but {INDEX} says {TWO}" in message
    assert f"ghost is not in {ONE}" in message
    (shards / INDEX).write_text(json.dumps({"weight_map": {k: v for k, v in index.items() if k != moved}}))
    assert f"{moved} is not in {INDEX}" in refusal(shards)
    shutil.copy(shards / ONE, shards / "again.bin")
    (shards / INDEX).write_text(json.dumps({"weight_map": {**index, moved: "again.bin"}}))
    assert f"{moved} is in two shards" in refusal(shards)
    (shards / INDEX).write_text(json.dumps({"weight_map": index}))
    (shards / TWO).unlink()
    assert f"names the shard {TWO}, which is absent" in refusal(shards)
    (shards / INDEX).write_text('{"weight_map": [1]}')
    assert "no weight_map" in refusal(shards)
