"""Writing results so that a killed run leaves no half of a file."""

import io
import json
import math
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def _write_bytes(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


def write_text(path: Path, text: str) -> None:
    """Writes text as UTF-8: a new file takes the place of the old one once it is complete."""
    _write_bytes(path, text.encode())


def _plain(value: Any) -> Any:
    """Numbers that JSON has; infinities and NaN become strings that say so."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"
    return value


def to_json(value: Any) -> str:
    """JSON text of plain values and arrays; non-finite numbers as the strings "inf", "-inf" and "nan"."""
    return json.dumps(_plain(value), indent=1, allow_nan=False) + "\n"


def write_json(path: Path, value: Any) -> None:
    """Writes `to_json(value)`, whole or not at all."""
    write_text(path, to_json(value))


def save_figure(figure: "Figure", path: Path) -> list[Path]:
    """Saves a matplotlib figure beside each other as .svg (byte-identical for the same data) and .png.

    Args:
      figure: the figure.
      path: without suffix.

    Returns:
      The two paths.
    """
    import matplotlib as mpl

    written = []
    with mpl.rc_context({"svg.hashsalt": "gmijax", "svg.fonttype": "none"}):
        for suffix, metadata in ((".svg", {"Date": None}), (".png", None)):
            buffer = io.BytesIO()
            figure.savefig(buffer, format=suffix[1:], metadata=metadata, dpi=150)
            target = path.with_suffix(suffix)
            _write_bytes(target, buffer.getvalue())
            written.append(target)
    return written
