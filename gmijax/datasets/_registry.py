"""Data sets by name."""

import inspect
import os
from collections.abc import Callable
from pathlib import Path

from gmijax.datasets._coco import coco
from gmijax.datasets._crema_d import crema_d
from gmijax.datasets._dataset import Dataset
from gmijax.datasets._esc50 import esc50
from gmijax.datasets._gqa import gqa
from gmijax.datasets._librispeech import librispeech
from gmijax.datasets._own import folder, jsonl
from gmijax.datasets._voxceleb1 import voxceleb1

_READERS: dict[str, Callable[..., Dataset]] = {
    "coco": coco,
    "crema_d": crema_d,
    "esc50": esc50,
    "folder": folder,
    "gqa": gqa,
    "jsonl": jsonl,
    "librispeech": librispeech,
    "voxceleb1": voxceleb1,
}


def names() -> tuple[str, ...]:
    """The data sets that `open` knows, sorted."""
    return tuple(sorted(_READERS))


def open(name: str, root: str | os.PathLike[str], **options: str | None) -> Dataset:
    """Opens a data set in the layout in which it is published.

    Tables of labels and texts are read, folders are listed; recordings and images are opened when a sample's `audio`
    or `image` is called. The labels that arXiv:2602.23136 probes are `speaker`, `lexical`, `emotion`, `sound_class`,
    `object_category`, `super_category`, `object_count`, `object_size` and `spatial_spread`.

    - `librispeech`: the folder LibriSpeech. Option `split` ("test-clean", as the paper). Labels `speaker`, `chapter`,
      `lexical` (see `lexical_labels`, over the split), and `gender` where SPEAKERS.TXT is there; the transcript is
      the text.
    - `crema_d`: the folder that holds AudioWAV. Labels `speaker` (the actor), `sentence`, `emotion`, `level`, and
      `gender` where VideoDemographics.csv is there; the sentence is the text.
    - `esc50`: the folder that holds meta and audio. Labels `sound_class` and `fold`.
    - `voxceleb1`: the folder that holds wav. Labels `speaker` and `video`, and with vox1_meta.csv `gender` and
      `nationality`. Option `split` ("dev" or "test" of that file; all by default).
    - `coco`: the folder that holds annotations and the images' folders. Options `split` ("val2017") and `captions`:
      "first" (by annotation id) for one sample an image, "all" for one a caption, with `#` and the annotation's id
      after the id. Labels `object_category`, its `super_category`, `object_count` (1, 2-4, 5-10, 11+), `object_size`
      and `spatial_spread` (tertiles over the images of the split that show objects), the numbers behind them
      (`objects`, `mean_object_area`, `center_spread`), and `lexical`, of the caption. Objects are boxes; crowds are
      left out, and an image without objects has no label of objects. `object_category` is the category with the most
      box area.
    - `gqa`: the folder that holds questions, sceneGraphs and images. Option `split` ("val_balanced"). One sample a
      question, with the question's id; labels `image`, `answer`, `structural_type`, `semantic_type`, `detailed_type`
      and, where there is a scene graph, those of objects as in `coco`, from its boxes, over the images asked about.
    - `folder`: all recordings and images below a folder. The path of the folder that a file lies in is its `label`,
      and the file of the same name that ends in .txt its text.
    - `jsonl`: a file with one object a line, with any of the keys `id`, `audio`, `image` (paths, from the file's
      folder), `text` and `labels` (an object). Without an `id`, the path is it.

    Genders are "female" and "male". Files whose names begin with a dot are not read.

    Args:
      name: one of `names()`.
      root: the folder that was published, or the file of `jsonl`.
      **options: see above.

    Returns:
      The samples, sorted by id.

    Raises:
      ValueError: if there is no such data set, or it has no such option.
      DatasetError: if the files are not in the layout, a table is malformed (the error names the file and the line),
        an id comes twice, or there is no sample.
    """
    if name not in _READERS:
        raise ValueError(f"name is {name!r}; the data sets are {', '.join(names())}")
    reader = _READERS[name]
    known = list(inspect.signature(reader).parameters)[1:]
    for option in options:
        if option not in known:
            raise ValueError(f"{name} has no option {option!r}; it has {', '.join(known) or 'none'}")
    return reader(Path(root).absolute(), **options)  # absolute: samples outlive a change of the working directory
