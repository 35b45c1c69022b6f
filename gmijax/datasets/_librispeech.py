"""LibriSpeech as it is unpacked: speaker/chapter/*.flac with *.trans.txt (Panayotov et al., ICASSP 2015)."""

import re
from pathlib import Path

from gmijax.datasets._dataset import Dataset
from gmijax.datasets._errors import DatasetError
from gmijax.datasets._files import files_below, need_folder, need_split, read_lines, relative_id
from gmijax.datasets._lexical import lexical_labels
from gmijax.datasets._media import AudioFile
from gmijax.datasets._sample import Sample

_LAYOUT = "LibriSpeech/<split>/<speaker>/<chapter>/<speaker>-<chapter>.trans.txt; give the folder LibriSpeech"
_LINE = re.compile(r"(\S+)(?:\s+(.*))?")
_GENDERS = {"F": "female", "M": "male"}


def librispeech(root: Path, *, split: str = "test-clean") -> Dataset:
    """Reads one split; see `gmijax.datasets.open`."""
    need_folder(root, _LAYOUT)
    need_split(root, split, (path.name for path in root.iterdir() if path.is_dir()), _LAYOUT)
    genders = _read_genders(root / "SPEAKERS.TXT")
    files = files_below(root / split, {".flac", ".txt"})
    texts: dict[Path, str] = {}
    for path in files:
        if path.name.endswith(".trans.txt"):
            _read_transcripts(path, texts)
    for path in files:
        if path.suffix.lower() == ".flac" and path not in texts:
            raise DatasetError(path, "has no line in the *.trans.txt of its folder")
    lexical = lexical_labels(list(texts.values()))
    samples = []
    for (path, text), word in zip(texts.items(), lexical, strict=True):
        speaker, chapter = path.parts[-3:-1]
        labels: dict[str, str | int | float] = {"speaker": speaker, "chapter": chapter}
        if genders:
            if speaker not in genders:
                raise DatasetError(root / "SPEAKERS.TXT", f"has no line for speaker {speaker}, of {path}")
            labels["gender"] = genders[speaker]
        if word is not None:
            labels["lexical"] = word
        samples.append(Sample(relative_id(path, root), labels, text, AudioFile(path)))
    return Dataset("librispeech", samples, root=root / split)


def _read_transcripts(path: Path, texts: dict[Path, str]) -> None:
    speaker, chapter = path.parts[-3:-1]
    prefix = f"{speaker}-{chapter}-"
    for number, line in read_lines(path):
        utterance, text = _LINE.fullmatch(line).groups()  # pyright: ignore[reportOptionalMemberAccess]
        if not re.fullmatch(re.escape(prefix) + r"\d+", utterance):
            problem = f"begins with {utterance!r}; expected an utterance such as {prefix}0000 and its transcript"
            raise DatasetError(path, problem, line=number)
        recording = path.parent / f"{utterance}.flac"
        if recording in texts:
            raise DatasetError(path, f"has a second transcript of {utterance}", line=number)
        texts[recording] = text or ""


def _read_genders(path: Path) -> dict[str, str]:
    """The genders of all speakers; nothing where the file is not there."""
    genders = {}
    if path.is_file():
        for number, line in read_lines(path):
            if line.startswith(";"):
                continue
            fields = [one.strip() for one in line.split("|", 4)]  # names may hold bars
            if len(fields) != 5 or fields[1] not in _GENDERS:
                raise DatasetError(path, "is not 'speaker | F or M | subset | minutes | name'", line=number)
            genders[fields[0]] = _GENDERS[fields[1]]
    return genders
