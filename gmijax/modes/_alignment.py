"""Text alignment of modal eigenmodes: the paper's alpha, its cross-fitted form, and forms without scale."""

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp

from gmijax._checks import check_level, is_concrete
from gmijax.modes._checks import check_same_space, check_tolerance, space_of
from gmijax.modes._cross import CrossFitted, Law, cross_fitted
from gmijax.modes._eigenmodes import TOLERANCE, Source, fit
from gmijax.modes._measure import squares
from gmijax.modes._paths import namespace, runs_on_host, total
from gmijax.stats import chunks


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Alignment:
    """How the text law's variance lies along the modal law's modes.

    Attributes:
      eigenvalues: modal variances, largest first, (k,); in-sample.
      directions: modal eigenvectors, orthonormal rows (k, d).
      text_variance: the text law's variances along them, (k,).
      alpha: the paper's alpha, text_variance / eigenvalues, (k,), in-sample. Not a share, and where n is not far above
        d biased down for the first modes and up for the last; `cross.alpha` is not.
      alpha_matched: the same after scaling the text law to the modal total variance.
      cross: the cross-fitted forms with their intervals, or None.
      total_variance: of the modal law.
      total_variance_text: of the text law.
      residuals: of the eigenproblem, (k,), as in `Modes`.
      converged: whether they are within the tolerance, those of the cross-fitted form too.
      n: modal rows.
      m: text rows.
      level: coverage of the intervals.
      space: of both laws.
    """

    eigenvalues: jax.Array
    directions: jax.Array
    text_variance: jax.Array
    alpha: jax.Array
    alpha_matched: jax.Array
    cross: CrossFitted | None
    total_variance: jax.Array
    total_variance_text: jax.Array
    residuals: jax.Array
    converged: jax.Array
    n: int = field(metadata={"static": True})
    m: int = field(metadata={"static": True})
    level: float = field(metadata={"static": True})
    space: str = field(metadata={"static": True})

    @property
    def alpha_share(self) -> jax.Array:
        """alpha_matched / (1 + alpha_matched), in [0, 1], (k,); in-sample."""
        return self.alpha_matched / (1 + self.alpha_matched)

    @property
    def share(self) -> jax.Array:
        """Each mode's share of the modal variance, (k,); in-sample."""
        return self.eigenvalues / self.total_variance


def align(
    modal: Source,
    text: Source,
    *,
    top: int | None = None,
    cross_fit: bool = True,
    paired: bool = False,
    level: float = 0.95,
    tolerance: float = TOLERANCE,
    path: str = "auto",
    space_modal: str = "",
    space_text: str = "",
) -> Alignment:
    """Variances of the text law along the modal law's eigenmodes.

    alpha_k = u_k' Sigma_T u_k / lambda_k (arXiv:2602.23136, section 5.6), modes limited to the rank of the modal rows:
    null modes, whose ratio is arbitrary, are never reported. The paper's form takes directions and variances from the
    same rows. Beside it stands the cross-fitted form: directions from every other row, both variances from the rest and
    the other way round, with intervals by the delta method (rows independent, directions held fixed). Forms without
    scale divide by the ratio of the total variances, so that they do not change with the unit of either law.

    Args:
      modal: rows of the modal law (n, d), or a callable that returns a fresh iterable of such arrays on every call.
      text: rows of the text law (m, d), likewise.
      top: how many modes; None for all.
      cross_fit: whether to add the cross-fitted forms, which costs about as much again.
      paired: whether row i of both laws has the same content (chunks are then of the same sizes): intervals count the
        pairs, and the correlation of the coordinates is added.
      level: coverage of the intervals.
      tolerance: of the eigenproblems' residuals, see `eigenmodes`.
      path: "auto", "host" or "device", see `eigenmodes`.
      space_modal: the modal rows' space; that of `modal.space` where it has one.
      space_text: the text rows' space.

    Returns:
      An `Alignment`.

    Raises:
      ValueError: for two spaces or widths, rows that are not finite, do not vary or carry fewer than `top` modes, fewer
        than two text or four modal rows (two if not cross-fitted), pairs of different numbers, or bad options.
    """
    check_level(level)
    check_tolerance(tolerance)
    space = check_same_space(
        space_of(modal, space_modal, "modal"), space_of(text, space_text, "text"), ("modal", "text")
    )
    sources = chunks(modal, name="modal"), chunks(text, name="text")
    on_host = runs_on_host(path, *sources)
    first, second = (Law.of(source, top, on_host) for source in sources)
    if first.mean.shape != second.mean.shape:
        raise ValueError(
            f"modal has {first.mean.shape[0]} columns and text {second.mean.shape[0]}: not one space; "
            "take both laws at one hook point"
        )
    if second.n < 2:
        raise ValueError(f"text has {second.n} row: a variance needs at least two")
    if paired and first.n != second.n:
        raise ValueError(f"modal has {first.n} rows and text {second.n}: paired rows come in one order and number")
    _, solution, _, _ = fit(first.source, top, tolerance, on_host)
    along, norms = total(squares(rows, second.mean, solution.directions) for rows in second.rows())
    text_variance, total_text = along / (second.n - 1), norms / (second.n - 1)
    if is_concrete(total_text) and not total_text > 0:
        raise ValueError(f"text does not vary: all {second.n} rows are the same")
    cross = None
    if cross_fit:
        cross = cross_fitted(first, second, solution.directions, tolerance=tolerance, paired=paired, level=level)
    xp = namespace(solution.eigenvalues)
    alpha = text_variance / solution.eigenvalues
    converged = jnp.asarray(xp.max(solution.residuals) <= tolerance)
    return Alignment(
        eigenvalues=jnp.asarray(solution.eigenvalues),
        directions=jnp.asarray(solution.directions),
        text_variance=jnp.asarray(text_variance),
        alpha=jnp.asarray(alpha),
        alpha_matched=jnp.asarray(alpha * (solution.total_variance / total_text)),
        cross=cross,
        total_variance=jnp.asarray(solution.total_variance),
        total_variance_text=jnp.asarray(total_text),
        residuals=jnp.asarray(solution.residuals),
        converged=converged if cross is None else converged & cross.converged,
        n=first.n,
        m=second.n,
        level=level,
        space=space,
    )
