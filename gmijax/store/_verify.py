"""Whether what is committed can be read and is what was written."""

from dataclasses import dataclass
from pathlib import Path

from gmijax.store._chunks import Commit, commit_path, digest, open_arrays, read_commit
from gmijax.store._manifest import read_columns, read_manifest


@dataclass(frozen=True)
class Verification:
    """What `verify` found.

    Attributes:
      chunks: how many the store has.
      committed: how many are committed and sound.
      damaged: by chunk, what is wrong with it.
    """

    chunks: int
    committed: int
    damaged: dict[int, str]

    @property
    def sound(self) -> bool:
        """Whether nothing is damaged; a store may be sound and not complete."""
        return not self.damaged


def verify(path: str | Path, *, forget: bool = False) -> Verification:
    """Reads every committed chunk and compares it with the checksums of its record.

    Args:
      path: the store's folder.
      forget: whether to take back the commits of damaged chunks, so that a resumed extraction writes them anew.

    Raises:
      StoreError: if the manifest or the list of samples is damaged, which nothing here can mend.
      FileNotFoundError: if there is no store.
    """
    folder = Path(path)
    manifest = read_manifest(folder)
    read_columns(folder, manifest)
    damaged, committed = {}, 0
    for chunk in range(manifest.chunks):
        commit = read_commit(folder, chunk, tuple(manifest.spec.hook_points))
        if commit is None:
            continue
        problem = _problem(folder, chunk, commit, manifest.spec) if isinstance(commit, Commit) else commit
        if problem is None:
            committed += 1
        else:
            damaged[chunk] = problem
            if forget:
                commit_path(folder, chunk).unlink()
    return Verification(manifest.chunks, committed, damaged)


def _problem(folder: Path, chunk: int, commit: Commit, spec) -> str | None:
    for name, array in commit.arrays.items():
        if not array.rows:
            continue
        try:
            (states,) = open_arrays(folder, name, {chunk: array.rows}, spec.hook_points[name], spec.dtype)
            found = digest(states.read().result())
        except ValueError as error:
            return f"the file of {name!r} cannot be read ({str(error).splitlines()[0]})"
        if found != array.sha256:
            return f"the states of {name!r} are not those that were written"
    return None
