"""What holds for every data set: the registry, the order, and that nothing is opened before it is asked for."""

import os
import pickle
import random
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gmijax import datasets
from gmijax.datasets import Dataset, DatasetError, Sample

LAYOUTS = ("coco", "crema_d", "esc50", "gqa", "librispeech", "voxceleb1")


@pytest.fixture(params=LAYOUTS)
def published(request):
    """The name of a data set, and its tree."""
    return request.param, request.getfixturevalue(request.param)


def test_names():
    assert datasets.names() == ("coco", "crema_d", "esc50", "folder", "gqa", "jsonl", "librispeech", "voxceleb1")


def test_unknown_names_and_options(crema_d):
    with pytest.raises(ValueError, match="name is 'imagenet'; the data sets are coco, crema_d, "):
        datasets.open("imagenet", "anywhere")
    with pytest.raises(ValueError, match="crema_d has no option 'split'; it has none"):
        datasets.open("crema_d", crema_d, split="test")
    with pytest.raises(ValueError, match="coco has no option 'fold'; it has split, captions"):
        datasets.open("coco", crema_d, fold="1")


@pytest.mark.parametrize("name", [*LAYOUTS, "folder"])
def test_missing_root(name, tmp_path):
    with pytest.raises(DatasetError, match="nowhere: is missing; expected a folder, as in") as caught:
        datasets.open(name, tmp_path / "nowhere")
    assert caught.value.path == tmp_path / "nowhere"


def test_order_does_not_depend_on_how_folders_are_listed(published, monkeypatch):
    name, root = published
    before = list(datasets.open(name, root))
    walk, listdir = os.walk, os.listdir

    def shuffled(values):
        return random.Random(5).sample(values, len(values))

    def shuffled_walk(*args, **options):
        for here, folders, files in walk(*args, **options):
            folders[:], files[:] = shuffled(folders), shuffled(files)
            yield here, folders, files

    monkeypatch.setattr(os, "walk", shuffled_walk)
    monkeypatch.setattr(os, "listdir", lambda *args: shuffled(listdir(*args)))
    after = datasets.open(name, root)
    assert list(after) == before
    assert after.ids == tuple(sorted(after.ids))


def test_ids_do_not_depend_on_where_the_root_is(published, tmp_path):
    name, root = published
    before = datasets.open(name, root)
    root.rename(tmp_path / "Ünder another näme")
    after = datasets.open(name, tmp_path / "Ünder another näme")
    assert after.ids == before.ids
    assert [sample.labels for sample in after] == [sample.labels for sample in before]


def test_samples_outlive_a_change_of_the_working_directory(esc50, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    dataset = datasets.open("esc50", esc50.name)
    monkeypatch.chdir("/")
    assert dataset[0].audio().shape == (800,)


def test_files_are_opened_when_they_are_called(published):
    """Every recording and image is spoiled: opening does not care, calling says which."""
    name, root = published
    for path in root.rglob("*"):
        if path.suffix in (".flac", ".wav", ".jpg"):
            path.write_bytes(b"spoiled")
    dataset = datasets.open(name, root)
    sample = dataset[len(dataset) - 1]
    with pytest.raises(DatasetError, match="cannot be read as") as caught:
        (sample.audio or sample.image)()
    assert caught.value.path.read_bytes() == b"spoiled"


def test_every_sample_can_be_read(published):
    name, root = published
    for sample in datasets.open(name, root):
        assert (sample.audio is None) != (sample.image is None)
        if sample.audio is not None:
            wave = sample.audio()
            assert (wave.dtype, wave.shape) == (np.float32, (800,))
        else:
            assert sample.image().size == (8, 6)


def test_system_litter_is_left_out(librispeech, write):
    write(librispeech / "test-clean/61/70968/._61-70968-0000.flac", b"litter")
    write(librispeech / "test-clean/61/70968/._61-70968.trans.txt", b"\xff")
    assert len(datasets.open("librispeech", librispeech)) == 4


def test_samples_travel_to_other_processes(published):
    name, root = published
    dataset = datasets.open(name, root)
    again = pickle.loads(pickle.dumps(dataset))
    assert list(again) == list(dataset)
    assert (again.name, again.ids, again.label_names) == (dataset.name, dataset.ids, dataset.label_names)


def test_errors_travel_to_other_processes():
    error = pickle.loads(pickle.dumps(DatasetError("a.csv", "is wrong", line=3)))
    assert str(error) == "a.csv:3: is wrong"
    assert (str(error.path), error.problem, error.line) == ("a.csv", "is wrong", 3)


def samples(*ids):
    return [Sample(one, {f"label_{one}": 1}) for one in ids]


@given(st.lists(st.text(max_size=3), min_size=1, max_size=8, unique=True))
def test_a_dataset_is_a_sorted_sequence(ids):
    dataset = Dataset("own", samples(*ids), root=".")
    assert dataset.ids == tuple(sorted(ids))
    assert len(dataset) == len(ids)
    assert [sample.id for sample in dataset] == [dataset[i].id for i in range(len(ids))] == sorted(ids)
    assert dataset[-1].id == max(ids)
    assert dataset.label_names == tuple(sorted(f"label_{one}" for one in ids))
    with pytest.raises(IndexError):
        dataset[len(ids)]


def test_slices_are_datasets():
    dataset = Dataset("own", samples("c", "a", "b"), root=".")
    part = dataset[::2]
    assert isinstance(part, Dataset)
    assert (part.name, part.ids, part.label_names) == ("own", ("a", "c"), ("label_a", "label_c"))
    assert len(dataset[3:]) == 0
    with pytest.raises(ValueError, match="the slice's step is -1; samples keep their order"):
        dataset[::-1]
    assert repr(part) == "Dataset('own', 2 samples, labels: label_a, label_c)"


def test_a_dataset_cannot_be_changed():
    dataset = Dataset("own", samples("a"), root=".")
    for name in ("name", "ids", "label_names", "other"):
        with pytest.raises(AttributeError):
            setattr(dataset, name, ())
    with pytest.raises(TypeError):
        dataset[0] = dataset[0]
    with pytest.raises(AttributeError):
        dataset[0].id = "b"


def test_a_dataset_must_have_samples_with_ids_of_their_own():
    with pytest.raises(DatasetError, match="here: holds no sample of own"):
        Dataset("own", [], root="here")
    with pytest.raises(DatasetError, match="here: holds two samples with the id 'a'; an id names one sample"):
        Dataset("own", samples("a", "b", "a"), root="here")


def test_the_import_is_light():
    """Neither jax nor what reads recordings and images is imported before it is needed."""
    code = "import sys, gmijax.datasets; print(sorted({'jax', 'PIL', 'scipy', 'soundfile'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
