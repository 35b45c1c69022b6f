"""Train and test splits as masks. Integer seeds and numpy's generator on the host, as scikit-learn draws them."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int
from numpy.typing import ArrayLike

SEEDS = (42, 43, 44, 45, 46)  # of the paper (appendix B.1)
_DRAWS = 1000


def _check_share(test_share: float) -> None:
    if not 0 < test_share < 1:
        raise ValueError(f"test_share must lie strictly between 0 and 1, got {test_share}")


def _check_vector(values: ArrayLike, name: str) -> np.ndarray:
    array = np.asarray(values)
    if array.ndim != 1 or not array.size:
        raise ValueError(f"{name} must be a vector with one entry a row, got shape {array.shape}")
    return array


def _apportion(counts: np.ndarray, draws: int, random: np.random.RandomState) -> np.ndarray:
    """How many of `draws` fall to each class: its share rounded down, then by largest remainder, ties at random."""
    exact = counts / counts.sum() * draws
    granted = np.floor(exact)
    missing = int(draws - granted.sum())
    remainders = exact - granted
    for remainder in np.unique(remainders)[::-1]:
        if missing <= 0:
            break
        tied = np.flatnonzero(remainders == remainder)
        lucky = random.choice(tied, size=min(len(tied), missing), replace=False)
        granted[lucky] += 1
        missing -= len(lucky)
    return granted.astype(int)


def stratified(
    labels: ArrayLike, *, seeds: Sequence[int] = SEEDS, test_share: float = 0.2
) -> Bool[np.ndarray, "splits n"]:
    """Splits with every label in proportion on both sides.

    The rows are those of scikit-learn's `train_test_split(..., stratify=labels, random_state=seed)`, so that a probe's
    test rows are the paper's, row for row.

    Args:
      labels: one a row, of any type that sorts, shape (n,).
      seeds: one split each.
      test_share: of the rows, rounded up.

    Returns:
      True for test rows, shape (splits, n).

    Raises:
      ValueError: for a label that occurs once, fewer training or test rows than labels, no seeds, or a bad share.
    """
    _check_share(test_share)
    array = _check_vector(labels, "labels")
    if not len(seeds):
        raise ValueError("seeds is empty; give one integer a split")
    classes, codes, counts = np.unique(array, return_inverse=True, return_counts=True)
    if counts.min() < 2:
        lonely = classes[counts < 2]
        raise ValueError(
            f"label {lonely[0]!s} occurs once ({len(lonely)} labels do): a stratified split needs two of each; "
            "drop these rows or merge the labels"
        )
    test_rows = int(np.ceil(test_share * len(array)))
    train_rows = len(array) - test_rows
    if min(test_rows, train_rows) < len(classes):
        raise ValueError(
            f"{len(array)} rows make {train_rows} to train and {test_rows} to test, fewer than the {len(classes)} "
            "labels; give more rows, another test_share, or fewer labels"
        )
    order = np.argsort(codes, kind="stable")
    by_class = np.split(order, np.cumsum(counts)[:-1])
    held_out = np.zeros((len(seeds), len(array)), bool)
    for mask, seed in zip(held_out, seeds, strict=True):
        random = np.random.RandomState(seed)
        train = _apportion(counts, train_rows, random)
        test = _apportion(counts - train, test_rows, random)
        for rows, first, count in zip(by_class, train, test, strict=True):
            mask[rows[random.permutation(len(rows))[first : first + count]]] = True
    return held_out


def grouped(
    groups: ArrayLike, labels: ArrayLike | None = None, *, seeds: Sequence[int] = SEEDS, test_share: float = 0.2
) -> Bool[np.ndarray, "splits n"]:
    """Splits that keep every group (a speaker, a document) whole on one side.

    The first draw of a seed is that of scikit-learn's `GroupShuffleSplit(random_state=seed)`. Where labels are given, a
    draw that would leave a label without training rows is rejected and the seed draws again.

    Args:
      groups: one a row, of any type that sorts, shape (n,).
      labels: one a row, or several sets of them, shape (n,) or (sets, n).
      seeds: one split each.
      test_share: of the groups, rounded up.

    Returns:
      True for test rows, shape (splits, n).

    Raises:
      ValueError: for fewer than two groups, shapes that differ, or labels that no draw out of 1000 leaves in training,
        such as one that names the group.
    """
    _check_share(test_share)
    array = _check_vector(groups, "groups")
    names, codes = np.unique(array, return_inverse=True)
    test_groups = int(np.ceil(test_share * len(names)))
    if len(names) < 2 or test_groups >= len(names):
        raise ValueError(
            f"groups has {len(names)} groups, of which {test_groups} would be tested and none be left to train; "
            "give more groups or a smaller test_share"
        )
    present = np.zeros((len(names), 0), bool)
    if labels is not None:
        sets = np.atleast_2d(np.asarray(labels))
        if sets.ndim != 2 or sets.shape[1] != len(array):
            raise ValueError(f"labels has shape {np.shape(labels)} and groups has {len(array)} rows")
        tables = []
        for one in sets:
            kinds, targets = np.unique(one, return_inverse=True)
            table = np.zeros((len(names), len(kinds)), bool)
            table[codes, targets] = True
            tables.append(table)
        present = np.concatenate(tables, axis=1)
    held_out = []
    for seed in seeds:
        random = np.random.RandomState(seed)
        for _ in range(_DRAWS):
            order = random.permutation(len(names))
            if present[order[test_groups:]].any(axis=0).all():
                break
        else:
            single = int((present.sum(axis=0) == 1).sum())
            raise ValueError(
                f"groups: none of {_DRAWS} draws left every label a training row ({single} labels occur in one group "
                "only, so that their group cannot be held out); drop these labels or split without groups"
            )
        held_out.append(np.isin(codes, order[:test_groups]))
    return np.array(held_out).reshape(len(seeds), len(array))


def k_fold(labels: ArrayLike, *, groups: ArrayLike | None = None, folds: int = 5, seed: int) -> Int[np.ndarray, " n"]:
    """The fold of every row, such that each row is tested once.

    Without groups every label is spread over the folds as evenly as can be; with them a group is whole in one fold, and
    a draw that would leave a label out of some fold's training rows is rejected.

    Args:
      labels: one a row, shape (n,).
      groups: one a row, shape (n,), or None.
      folds: how many, at least 2.
      seed: of the shuffles.

    Returns:
      0..folds-1, shape (n,).

    Raises:
      ValueError: for a label with fewer rows than folds, fewer groups than folds, shapes that differ, or labels that no
        draw out of 1000 leaves in training.
    """
    array, random = _check_vector(labels, "labels"), np.random.RandomState(seed)
    if folds < 2:
        raise ValueError(f"folds must be at least 2, got {folds}")
    classes, codes, counts = np.unique(array, return_inverse=True, return_counts=True)
    if groups is None:
        if counts.min() < folds:
            raise ValueError(
                f"label {classes[counts.argmin()]!s} has {counts.min()} rows, fewer than {folds} folds; drop or merge "
                "such labels, or take fewer folds"
            )
        order = np.lexsort((random.permutation(len(array)), codes))
        fold = np.empty(len(array), int)
        fold[order] = np.arange(len(array)) % folds
        return fold
    names, members = np.unique(_check_vector(groups, "groups"), return_inverse=True)
    if len(members) != len(array) or len(names) < folds:
        raise ValueError(
            f"groups has {len(members)} entries for {len(array)} labels, and {len(names)} groups for {folds} folds"
        )
    for _ in range(_DRAWS):
        fold = (random.permutation(len(names)) % folds)[members]
        held = np.zeros((len(classes), folds))
        np.add.at(held, (codes, fold), 1)
        if (counts[:, None] - held > 0).all():
            return fold
    raise ValueError(
        f"groups: none of {_DRAWS} draws left every label training rows in all {folds} folds; drop labels that occur "
        "in one group only, or split without groups"
    )
