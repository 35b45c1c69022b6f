"""Second and fourth moments of rows along given directions: variances, and how sure they are."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from gmijax.modes._paths import both_paths, namespace


class Sample(NamedTuple):
    """Means of quantities that every row of one sample contributes to, for every mode."""

    names: tuple[str, ...]
    means: Any  # (k, names), as unbiased variances
    covariance: Any  # (k, names, names), of one row's contributions
    n: int


@both_paths
def squares(rows: Any, mean: Any, directions: Any) -> tuple[Any, Any]:
    """Sums over rows of the squared coordinates, (k,), and of the squared norms, ()."""
    xp = namespace(rows)
    centred = rows - mean[None, :]
    return xp.sum(xp.square(centred @ directions.T), axis=0), xp.sum(xp.square(centred))


def _sums(by_mode: list[Any], shared: list[Any], xp: Any) -> Any:
    """Sums over rows of all products of the columns (by_mode..., shared..., 1), for every mode: (k, c, c)."""
    plain = xp.stack([*shared, xp.ones_like(shared[0])], axis=1)
    own = xp.stack([xp.stack([xp.sum(a * b, axis=0) for b in by_mode], -1) for a in by_mode], -1)
    mixed = xp.stack([each.T @ plain for each in by_mode], 1)
    others = xp.broadcast_to(plain.T @ plain, (own.shape[0], plain.shape[1], plain.shape[1]))
    upper = xp.concatenate([own, mixed], axis=2)
    return xp.concatenate([upper, xp.concatenate([mixed.transpose(0, 2, 1), others], axis=2)], axis=1)


@both_paths
def products(rows: Any, mean: Any, directions: tuple[Any, ...], scale: Any, norm_scale: Any) -> Any:
    """Of one law: sums of products of (squared coordinate / scale, squared norm / norm_scale, 1), (k, 3, 3).

    With several sets of directions, the squared coordinate is their mean. Scales keep fourth powers in range.
    """
    xp = namespace(rows)
    centred = rows - mean[None, :]
    square = sum(xp.square(centred @ each.T) for each in directions) / (len(directions) * scale[None, :])
    return _sums([square], [xp.sum(xp.square(centred), axis=1) / norm_scale], xp)


@both_paths
def paired_products(
    modal: Any, text: Any, mean_modal: Any, mean_text: Any, directions: Any, scale: Any, norm_scale: Any
) -> tuple[Any, Any]:
    """Of paired rows, both laws' columns together, (k, 5, 5), and the sums of their coordinates' products, (k,)."""
    xp = namespace(modal)
    laws = (modal - mean_modal[None, :], text - mean_text[None, :])
    first, second = (centred @ directions.T for centred in laws)
    by_mode = [xp.square(each) / scale[None, :] for each in (first, second)]
    shared = [xp.sum(xp.square(centred), axis=1) / norm_scale for centred in laws]
    return _sums(by_mode, shared, xp), xp.sum(first * second, axis=0) / scale


def sample(names: tuple[str, ...], sums: Any, n: int) -> Sample:
    """From sums of products of n rows about their own mean, into which one degree of freedom went."""
    means, unbiased = sums[:, :-1, -1] / n, n / (n - 1)
    covariance = sums[:, :-1, :-1] / n - means[:, :, None] * means[:, None, :]
    return Sample(names, means * unbiased, covariance * unbiased, n)


def averages(samples: Sequence[Sample]) -> dict[str, Any]:
    """Every quantity by name, (k,), averaged over the samples that have it."""
    names = dict.fromkeys(name for each in samples for name in each.names)
    found = {name: [each.means[:, each.names.index(name)] for each in samples if name in each.names] for name in names}
    return {name: sum(values) / len(values) for name, values in found.items()}


def linear_error(samples: Sequence[Sample], coefficients: Mapping[str, Any]) -> Any:
    """The standard error of a sum of coefficients times `averages`, (k,); samples are independent of one another."""
    xp = namespace(samples[0].means)
    counts = {name: sum(name in each.names for each in samples) for name in coefficients}
    variance = 0
    for each in samples:
        zero = xp.zeros_like(each.means[:, 0])
        row = xp.stack([coefficients[n] / counts[n] if n in coefficients else zero for n in each.names], axis=1)
        variance = variance + xp.sum(row[:, :, None] * each.covariance * row[:, None, :], axis=(1, 2)) / each.n
    return xp.sqrt(xp.maximum(variance, 0))
