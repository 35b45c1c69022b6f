import hashlib
import json
import shutil

import pytest

from gmijax.checkpoints import CheckpointError, bundled, digest


def sha256(content):
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def parts(tmp_path):
    for name, content in (("model/a.safetensors", b"1"), ("model/sub/b.bin", b"2"), ("text/model.gguf", b"3")):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "model" / "README.md").write_text("words")
    return tmp_path


def test_one_file_has_its_own_digest(parts):
    assert digest(parts / "text" / "model.gguf") == digest(parts / "text") == sha256(b"3")


def test_several_files_have_that_of_their_list(parts):
    listed = f"{sha256(b'1')}  a.safetensors\n{sha256(b'2')}  sub/b.bin\n"
    assert digest(parts / "model") == sha256(listed.encode())
    with_text = sha256(f"{listed}{sha256(b'3')}  model.gguf\n".encode())
    assert digest(parts / "model", text_model=parts / "text") == with_text
    (parts / "model" / "config.json").write_text(json.dumps({"text_model_id": "../text", "audio_model_id": None}))
    assert digest(parts / "model") == with_text  # where the config says it lies


def test_only_weights_and_names_count(parts):
    before = digest(parts / "model")
    (parts / "model" / "README.md").write_text("other words")
    shutil.move(parts / "model", parts / "moved")
    assert digest(parts / "moved") == before
    (parts / "moved" / "a.safetensors").write_bytes(b"4")
    assert digest(parts / "moved") != before


def test_all_files_of_an_orbax_folder_count(parts):
    (parts / "text" / "gmijax.json").write_text("{}")
    before = digest(parts / "text")
    (parts / "text" / "ocdbt").write_bytes(b"5")
    assert digest(parts / "text") != before


@pytest.mark.parametrize(("name", "words"), [("none", "no such file or folder"), ("empty", "holds no weights")])
def test_what_holds_no_weights_is_refused(tmp_path, name, words):
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=words):
        digest(tmp_path / name)


def test_names_of_packages():
    assert bundled("some/folder") is None
