"""ESC-50 as it is published: meta/esc50.csv and audio/ (Piczak, ACM Multimedia 2015)."""

from pathlib import Path

from gmijax.datasets._dataset import Dataset
from gmijax.datasets._errors import DatasetError
from gmijax.datasets._files import need_folder, read_table, relative_id
from gmijax.datasets._media import AudioFile
from gmijax.datasets._sample import Sample

_LAYOUT = "ESC-50/meta/esc50.csv and ESC-50/audio/*.wav; give the folder ESC-50"


def esc50(root: Path) -> Dataset:
    """Reads the clips; see `gmijax.datasets.open`."""
    need_folder(root, _LAYOUT)
    audio = need_folder(root / "audio", _LAYOUT)
    table = root / "meta" / "esc50.csv"
    samples = []
    for number, row in read_table(table, ("filename", "fold", "category")):
        if not row["filename"] or not row["category"] or not row["fold"].isdecimal():
            problem = f"has filename {row['filename']!r}, fold {row['fold']!r}, category {row['category']!r}"
            raise DatasetError(table, f"{problem}; expected a name, a whole number and a name", line=number)
        path = audio / row["filename"]
        labels: dict[str, str | int | float] = {"sound_class": row["category"], "fold": int(row["fold"])}
        samples.append(Sample(relative_id(path, root), labels, audio=AudioFile(path)))
    return Dataset("esc50", samples, root=table)
