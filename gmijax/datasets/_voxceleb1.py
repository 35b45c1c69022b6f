"""VoxCeleb1 as it is unpacked: wav/<speaker>/<video>/<utterance>.wav (Nagrani et al., Interspeech 2017)."""

import re
from pathlib import Path

from gmijax.datasets._dataset import Dataset
from gmijax.datasets._errors import DatasetError
from gmijax.datasets._files import files_below, need_folder, need_split, read_table, relative_id
from gmijax.datasets._media import AudioFile
from gmijax.datasets._sample import Sample

_LAYOUT = "VoxCeleb1/wav/idNNNNN/<video>/NNNNN.wav and VoxCeleb1/vox1_meta.csv; give the folder VoxCeleb1"
_GENDERS = {"f": "female", "m": "male"}


def voxceleb1(root: Path, *, split: str | None = None) -> Dataset:
    """Reads the utterances; see `gmijax.datasets.open`."""
    need_folder(root, _LAYOUT)
    folder = need_folder(root / "wav", _LAYOUT)
    meta = root / "vox1_meta.csv"
    speakers = _read_speakers(meta) if meta.is_file() else {}
    if split is not None:
        if not speakers:
            raise DatasetError(meta, f"is missing or empty, and tells which speakers are in the split {split!r}")
        need_split(root, split, {row["Set"] for row in speakers.values()}, _LAYOUT)
    samples = []
    for path in files_below(folder, {".wav"}):
        parts = path.relative_to(folder).parts
        if len(parts) != 3 or not re.fullmatch(r"id\d{5}", parts[0]):
            raise DatasetError(path, f"is not where an utterance lies in {_LAYOUT}")
        speaker, video, _ = parts
        labels: dict[str, str | int | float] = {"speaker": speaker, "video": video}
        if speakers:
            if speaker not in speakers:
                raise DatasetError(meta, f"has no line for speaker {speaker}, of {path}")
            row = speakers[speaker]
            if split not in (None, row["Set"]):
                continue
            labels |= {"gender": _GENDERS[row["Gender"]], "nationality": row["Nationality"]}
        samples.append(Sample(relative_id(path, root), labels, audio=AudioFile(path)))
    return Dataset("voxceleb1", samples, root=folder)


def _read_speakers(path: Path) -> dict[str, dict[str, str]]:
    speakers = {}
    for number, row in read_table(path, ("VoxCeleb1 ID", "Gender", "Nationality", "Set"), delimiter="\t"):
        if row["Gender"] not in _GENDERS:
            raise DatasetError(path, f"has Gender {row['Gender']!r}; expected {' or '.join(_GENDERS)}", line=number)
        speakers[row["VoxCeleb1 ID"]] = row
    return speakers
