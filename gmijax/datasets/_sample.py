"""What a data set is made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import PIL.Image


@dataclass(frozen=True)
class Sample:
    """One recording, image or text, with what is known of it.

    Attributes:
      id: names the sample in its data set, on any machine: a path below the root, with forward slashes, wherever the
        data set has files.
      labels: what probes are trained on. A label that the sample has not is left out.
      text: the transcript, the caption or the question.
      audio: opens the recording: float32, one axis, 16 kHz, in -1 to 1.
      image: opens the image: a PIL image in RGB.
    """

    id: str
    labels: dict[str, str | int | float]
    text: str | None = None
    audio: Callable[[], np.ndarray] | None = None
    image: Callable[[], PIL.Image.Image] | None = None
