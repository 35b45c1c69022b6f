"""The one error of this room."""

from collections.abc import Iterable
from pathlib import Path


class CheckpointError(ValueError):
    """A checkpoint that cannot be used, with everything that is wrong with it.

    Attributes:
      path: the checkpoint.
      problems: one sentence for each thing wrong; the message lists them all.
    """

    def __init__(self, path: Path | str, problems: Iterable[str]):
        self.path = Path(path)
        self.problems = tuple(problems)
        if len(self.problems) == 1:
            message = f"{path}: {self.problems[0]}"
        else:
            message = "\n  - ".join([f"{path}: {len(self.problems)} problems", *self.problems])
        super().__init__(message)
