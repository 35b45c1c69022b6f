"""Arrays from files: what a command can be given, and what it says of files that it cannot use."""

import numpy as np
import pytest
from safetensors.numpy import save_file

from gmijax._arrays import load_array, load_arrays

X, Y = np.arange(6.0).reshape(2, 3), np.arange(4)


@pytest.fixture
def files(tmp_path):
    np.save(tmp_path / "x.npy", X)
    np.savez(tmp_path / "both.npz", x=X, y=Y)
    save_file({"x": X, "y": Y}, tmp_path / "both.safetensors")
    np.save(tmp_path / "objects.npy", np.array([{}], object), allow_pickle=True)
    (tmp_path / "cut.npy").write_bytes((tmp_path / "x.npy").read_bytes()[:-8])
    (tmp_path / "cut.npz").write_bytes((tmp_path / "both.npz").read_bytes()[:200])
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "both.safetensors").read_bytes()[:-8])
    (tmp_path / "text.txt").write_text("1 2")
    return tmp_path


@pytest.mark.parametrize("source", ["x.npy", "both.npz:x", "both.safetensors:x"])
def test_one_array(files, source):
    np.testing.assert_array_equal(load_array(str(files / source)), X)


@pytest.mark.parametrize("source", ["both.npz", "both.safetensors"])
def test_all_arrays(files, source):
    found = load_arrays(str(files / source))
    assert sorted(found) == ["x", "y"]
    np.testing.assert_array_equal(found["y"], Y)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("both.npz", "holds x, y; say which, as .*both.npz:x"),
        ("both.npz:z", "holds no array 'z', but x, y"),
        ("both.safetensors:z", "holds no array 'z', but x, y"),
        ("x.npy:x", "one array without a name"),
        ("objects.npy", "holds Python objects"),
        ("cut.npy", "cut short or damaged"),
        ("cut.npz", "cut short or damaged"),
        ("cut.safetensors", "cut short or damaged"),
        ("text.txt", "none of .npy, .npz, .safetensors"),
    ],
)
def test_what_cannot_be_used_is_named(files, source, message):
    with pytest.raises(ValueError, match=message):
        load_array(str(files / source))


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist; give"):
        load_array(str(tmp_path / "nothing.npy"))
