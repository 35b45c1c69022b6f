"""What `gmijax extract` does: open a data set, load a model, run it, and say what came of it."""

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gmijax import datasets, extraction
from gmijax.report import progress_bars, to_json

_SHOWN = 10  # reasons for failures


@dataclass(frozen=True)
class Request:
    """The options of a command line.

    Attributes:
      dataset: its layout.
      root: its folder.
      options: of the reader, as NAME=VALUE.
      limit: how many samples are taken; None for all.
      model: a path, or the name of a packaged one.
      loading: arguments of `extraction.load`.
      window: seconds, "full" or "clip".
      out: the store.
      running: arguments of `extraction.extract` and `estimate`.
      process: as "I/N".
      strict: see `extraction.extract`.
      retry: likewise.
    """

    dataset: str
    root: Path
    options: Sequence[str]
    limit: int | None
    model: str
    loading: dict[str, Any]
    window: str
    out: Path
    running: dict[str, Any]
    process: str
    strict: bool
    retry: bool

    def opened(self) -> tuple[datasets.Dataset, extraction.Encoder]:
        """The data set and the encoder; what is quick to check comes first."""
        options = dict(_option(option) for option in self.options)
        window = _window(self.window)
        dataset = datasets.open(self.dataset, self.root, **options)
        return dataset[: self.limit], extraction.load(self.model, window=window, **self.loading)


def _option(option: str) -> tuple[str, str]:
    name, equals, value = option.partition("=")
    if not name or not equals:
        raise ValueError(f"--option {option!r} is not NAME=VALUE")
    return name, value


def _window(window: str) -> Any:
    if window in ("full", "clip"):
        return window
    try:
        return float(window)
    except ValueError:
        raise ValueError(f"--window {window!r} is neither a number of seconds nor 'full' or 'clip'") from None


def _process(process: str) -> tuple[int, int]:
    index, slash, count = process.partition("/")
    if not slash or not index.isdecimal() or not count.isdecimal():
        raise ValueError(f"--process {process!r} is not I/N, as 0/4")
    return int(index), int(count)


def extract(request: Request, as_json: bool) -> str:
    """Runs, and says what was done."""
    process = _process(request.process)
    dataset, encoder = request.opened()
    found = extraction.estimate(dataset, encoder, request.out, **request.running, time_batch=False)
    sys.stderr.write(f"{_to_come(found)}\n")
    with progress_bars() as progress:
        result = extraction.extract(
            dataset,
            encoder,
            request.out,
            **request.running,
            process=process,
            strict=request.strict,
            retry=request.retry,
            progress=progress,
        )
    if as_json:
        return to_json({**vars(result), "path": str(result.path), "rate": result.rate})
    state = "complete" if result.complete else "chunks are pending"
    reasons = Counter(result.failed.values()).most_common(_SHOWN)
    lines = [
        f"{result.done} of {result.samples} samples in {result.seconds:.1f} s ({result.rate:.3g} a second), "
        f"{_size(result.bytes)} of states; {result.path} is {state}",
        *([f"{len(result.failed)} samples have no states, e.g."] if result.failed else []),
        *(f"  {count}: {reason}" for reason, count in reasons),
    ]
    return "\n".join(lines) + "\n"


def estimate(request: Request, as_json: bool) -> str:
    """Times one batch, and says how long all would take."""
    dataset, encoder = request.opened()
    found = extraction.estimate(dataset, encoder, request.out, **request.running)
    if as_json:
        return to_json(vars(found))
    if found.seconds is None or found.compile_seconds is None:
        return f"{_to_come(found)}\n"
    return (
        f"{_to_come(found)}, about {_time(found.seconds)} on one process like this, after "
        f"{_time(found.compile_seconds)} of compilation ({found.timed} samples timed)\n"
    )


def _to_come(found: extraction.Estimate) -> str:
    size = "" if found.bytes is None else f": {_size(found.bytes)} of states"
    return f"{found.pending} of {found.samples} samples are to be done{size}"


def _size(count: int) -> str:
    """Bytes in words."""
    size = float(count)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.4g} {unit}"
        size /= 1024
    return f"{size:.4g} TiB"


def _time(seconds: float) -> str:
    """A duration in words."""
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.3g} min" if seconds < 7200 else f"{seconds / 3600:.3g} h"
