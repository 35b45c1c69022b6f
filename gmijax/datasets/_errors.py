"""The one error of this room."""

from pathlib import Path


class DatasetError(ValueError):
    """A data set, or one of its files, that cannot be used.

    Attributes:
      path: the file or folder.
      problem: what is wrong with it, and what would do.
      line: where in the file, counted from 1; None where that is not known or the file has no lines.
    """

    def __init__(self, path: Path | str, problem: str, *, line: int | None = None):
        super().__init__(problem)
        self.path = Path(path)
        self.problem = problem
        self.line = line

    def __str__(self) -> str:
        place = "" if self.line is None else f":{self.line}"
        return f"{self.path}{place}: {self.problem}"

    def __reduce__(self):
        return _rebuild, (self.path, self.problem, self.line)


def _rebuild(path: Path, problem: str, line: int | None) -> DatasetError:
    return DatasetError(path, problem, line=line)
