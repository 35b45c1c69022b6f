"""Your own files."""

import json
import os
import unicodedata

import pytest

from gmijax import datasets


def test_folder(tmp_path, write):
    for name in ("b/x.wav", "a/y.PNG", "a/deep/z.jpg", "top.flac", "a/.hidden.wav", ".cache/q.wav", "notes.csv"):
        write(tmp_path / name, "" if name == "notes.csv" else None)
    write(tmp_path / "b/x.txt", " Größe \n")
    dataset = datasets.open("folder", tmp_path)
    assert dataset.ids == ("a/deep/z.jpg", "a/y.PNG", "b/x.wav", "top.flac")
    assert [sample.labels for sample in dataset] == [{"label": "a/deep"}, {"label": "a"}, {"label": "b"}, {}]
    assert [sample.text for sample in dataset] == [None, None, "Größe", None]
    assert dataset[1].image().size == (8, 6)
    assert dataset[1].audio is None
    assert dataset[2].audio().shape == (800,)
    assert dataset[2].image is None


def test_folder_ids_are_composed(tmp_path, write):
    """One file system gives back an accent as written, another decomposed; the id is the same."""
    decomposed = unicodedata.normalize("NFD", "Übung/Ñandú.wav")
    write(tmp_path / decomposed)
    dataset = datasets.open("folder", tmp_path)
    assert dataset.ids == ("Übung/Ñandú.wav",)
    assert dataset[0].labels == {"label": "Übung"}
    assert dataset[0].audio().shape == (800,)


def test_folder_with_two_spellings_of_one_name(tmp_path, write):
    for form in ("NFC", "NFD"):
        write(tmp_path / unicodedata.normalize(form, "é.wav"))
    if len(list(tmp_path.iterdir())) < 2:
        pytest.skip("this file system composes names itself")
    with pytest.raises(datasets.DatasetError, match=r"holds two samples with the id 'é\.wav'; an id names one sample"):
        datasets.open("folder", tmp_path)


def test_folder_with_a_name_that_is_no_text(tmp_path):
    try:
        with open(os.path.join(os.fsencode(tmp_path), b"\xff.wav"), "wb"):
            pass
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    with pytest.raises(datasets.DatasetError, match="holds a file whose name is not UTF-8"):
        datasets.open("folder", tmp_path)


def test_folder_follows_links_but_not_in_circles(tmp_path, write):
    write(tmp_path / "elsewhere/x.wav")
    root = tmp_path / "root"
    (root / "inside").mkdir(parents=True)
    (root / "linked").symlink_to(tmp_path / "elsewhere")
    (root / "inside/back").symlink_to(root)
    assert datasets.open("folder", root).ids == ("linked/x.wav",)


def test_folder_without_samples(tmp_path, write):
    write(tmp_path / "a.txt", "a")
    with pytest.raises(datasets.DatasetError, match=r"holds no recording and no image; names that end in \.aif, "):
        datasets.open("folder", tmp_path)
    with pytest.raises(datasets.DatasetError, match=r"a\.txt: is a file; expected a folder"):
        datasets.open("folder", tmp_path / "a.txt")


def test_jsonl(tmp_path, write):
    write(tmp_path / "clips/é.wav")
    write(tmp_path / "one.png")
    lines = [
        {"image": "one.png", "labels": {"n": 3, "x": 0.5, "s": "a"}, "text": "one\u2028line"},
        {"audio": "clips/é.wav", "text": ""},
        {"id": "both", "audio": str(tmp_path / "clips/é.wav"), "image": "one.png", "text": None},
        {"id": "TEXT", "text": "alone"},
    ]
    path = write(tmp_path / "own.jsonl", "\n\n".join(json.dumps(line, ensure_ascii=False) for line in lines) + "\r\n")
    dataset = datasets.open("jsonl", path)
    assert dataset.ids == ("TEXT", "both", "clips/é.wav", "one.png")
    assert dataset.label_names == ("n", "s", "x")
    assert dataset[3].labels == {"n": 3, "x": 0.5, "s": "a"}
    assert [sample.text for sample in dataset] == ["alone", None, "", "one\u2028line"]
    assert dataset[0].audio is None
    assert dataset[0].image is None
    assert dataset[1].audio().shape == dataset[2].audio().shape == (800,)
    assert dataset[1].image().size == dataset[3].image().size == (8, 6)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r":2: is no JSON: "),
        ("[]", r":2: holds a list; expected an object in braces"),
        ('{"id": "a", "id": "b"}', r":2: has the key 'id' twice in one object"),
        ('{"id": "a", "wave": "b"}', r":2: has the key 'wave'; known are id, audio, image, text, labels"),
        ('{"id": 1}', r":2: has id 1; expected a string that is not empty"),
        ('{"audio": ""}', r":2: has audio ''; expected a string that is not empty"),
        ('{"text": "a"}', r":2: has no id, and no path below the file's folder to take for one"),
        ('{"audio": "/a.wav"}', r":2: has no id, and no path"),
        ('{"id": "a", "labels": ["x"]}', r":2: has labels \['x'\]; expected an object in braces"),
        ('{"id": "a", "labels": {"x": null}}', r":2: has the label x None; expected a string or a finite number"),
        ('{"id": "a", "labels": {"x": true}}', r":2: has the label x True; expected a string or a finite number"),
        ('{"id": "a", "labels": {"x": NaN}}', r":2: has the label x nan; expected a string or a finite number"),
        ('{"id": "first"}', r":2: has the id 'first' of line 1 again"),
    ],
)
def test_malformed_jsonl(tmp_path, write, line, message):
    path = write(tmp_path / "own.jsonl", '{"id": "first"}\n' + line + "\n")
    with pytest.raises(datasets.DatasetError, match=r"own\.jsonl" + message):
        datasets.open("jsonl", path)


def test_jsonl_that_is_empty_or_a_folder(tmp_path, write):
    with pytest.raises(datasets.DatasetError, match=r"is no file; give the \.jsonl file itself"):
        datasets.open("jsonl", tmp_path)
    with pytest.raises(datasets.DatasetError, match="holds no sample of jsonl"):
        datasets.open("jsonl", write(tmp_path / "own.jsonl", "\n"))
