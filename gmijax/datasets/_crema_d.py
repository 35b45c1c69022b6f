"""CREMA-D as it is published: AudioWAV/<actor>_<sentence>_<emotion>_<level>.wav (Cao et al., 2014)."""

from pathlib import Path

from gmijax.datasets._dataset import Dataset
from gmijax.datasets._errors import DatasetError
from gmijax.datasets._files import files_below, need_folder, read_table, relative_id
from gmijax.datasets._media import AudioFile
from gmijax.datasets._sample import Sample

_LAYOUT = "CREMA-D/AudioWAV/<actor>_<sentence>_<emotion>_<level>.wav; give the folder CREMA-D"
_SENTENCES = {
    "DFA": "Don't forget a jacket.",
    "IEO": "It's eleven o'clock.",
    "IOM": "I'm on my way to the meeting.",
    "ITH": "I think I have a doctor's appointment.",
    "ITS": "I think I've seen this before.",
    "IWL": "I would like a new alarm clock.",
    "IWW": "I wonder what this is about.",
    "MTI": "Maybe tomorrow it will be cold.",
    "TAI": "The airplane is almost full.",
    "TIE": "That is exactly what happened.",
    "TSI": "The surface is slick.",
    "WSI": "We'll stop in a couple of minutes.",
}
_EMOTIONS = {"ANG": "anger", "DIS": "disgust", "FEA": "fear", "HAP": "happy", "NEU": "neutral", "SAD": "sad"}
# One published file, 1040_ITH_SAD_X.wav, has a single X.
_LEVELS = {"LO": "low", "MD": "medium", "HI": "high", "XX": "unspecified", "X": "unspecified"}
_GENDERS = {"Female": "female", "Male": "male"}


def crema_d(root: Path) -> Dataset:
    """Reads the clips; see `gmijax.datasets.open`."""
    need_folder(root, _LAYOUT)
    folder = need_folder(root / "AudioWAV", _LAYOUT)
    demographics = root / "VideoDemographics.csv"
    genders = _read_genders(demographics)
    samples = []
    for path in files_below(folder, {".wav"}):
        actor, sentence, emotion, level = _codes(path)
        labels: dict[str, str | int | float] = {
            "speaker": actor,
            "sentence": sentence,
            "emotion": _EMOTIONS[emotion],
            "level": _LEVELS[level],
        }
        if genders:
            if actor not in genders:
                raise DatasetError(demographics, f"has no line for actor {actor}, of {path}")
            labels["gender"] = genders[actor]
        samples.append(Sample(relative_id(path, root), labels, _SENTENCES[sentence], AudioFile(path)))
    return Dataset("crema_d", samples, root=folder)


def _codes(path: Path) -> list[str]:
    codes = path.stem.split("_")
    if len(codes) != 4:
        raise DatasetError(
            path, f"has {len(codes)} codes in its name; expected <actor>_<sentence>_<emotion>_<level>.wav"
        )
    known = {"sentence": _SENTENCES, "emotion": _EMOTIONS, "level": _LEVELS}
    for (what, table), code in zip(known.items(), codes[1:], strict=True):
        if code not in table:
            raise DatasetError(path, f"has the {what} {code!r} in its name; known are {', '.join(table)}")
    return codes


def _read_genders(path: Path) -> dict[str, str]:
    """The genders of all actors; nothing where the file is not there."""
    genders = {}
    if path.is_file():
        for number, row in read_table(path, ("ActorID", "Sex")):
            if row["Sex"] not in _GENDERS:
                raise DatasetError(path, f"has Sex {row['Sex']!r}; expected {' or '.join(_GENDERS)}", line=number)
            genders[row["ActorID"]] = _GENDERS[row["Sex"]]
    return genders
