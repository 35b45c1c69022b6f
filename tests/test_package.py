"""The package's face: rooms load lazily, every listed name exists, and the shipped data is found."""

import importlib
import subprocess
import sys

import pytest

import gmijax

ROOMS = [name for name in gmijax.__all__ if not name.startswith("__")]


@pytest.mark.parametrize("room", ROOMS)
def test_every_exported_name_exists_and_is_sorted(room):
    module = importlib.import_module(f"gmijax.{room}")
    assert getattr(gmijax, room) is module
    names = list(getattr(module, "__all__", []))
    assert names == sorted(names, key=lambda name: (not name.isupper(), not name[0].isupper(), name))  # as ruff sorts
    for name in names:
        assert getattr(module, name) is not None


def test_import_is_light():
    code = "import sys, gmijax; print(sorted({'jax', 'flax', 'transformers', 'matplotlib'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_unknown_room_names_the_rooms():
    with pytest.raises(AttributeError, match="its rooms are accessibility, bounds"):
        _ = gmijax.nothing
