"""What every distance returns."""

from dataclasses import dataclass, field

import jax

from gmijax.distances._checks import check_given
from gmijax.stats import Interval


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Distance:
    """A distance between two laws, with what is needed to trust it or not.

    Attributes:
      value: the estimate, in the unit that the estimator's docstring gives.
      standard_error: of `value` about its own expectation; None where none was asked for.
      interval: confidence interval at `level`. It holds for what the estimator's docstring says, which for W1 in many
        dimensions is the expected distance of two samples of these sizes, not the smaller distance of the laws.
      null: what no difference would give: the mean of the same statistic over permuted labels (CKA: pairings).
      split_half: the mean of the statistic between random halves of one law, taken of x and of y in turn: the noise
        floor at n / 2 and m / 2 rows. None for CKA, since halves of one law are not paired.
      p_value: (1 + permutations at least as extreme) / (1 + permutations). Exact under the null.
      converged: whether an iterative solve met its tolerance; a certificate where it is a gap of linear programming.
      discarded: share of the pooled variance that a projection left out; None without a projection.
      n: rows of x that count; 0 where the distance is known without a sample. Under a trace, all rows.
      m: rows of y.
      name: the estimator and its convention.
      given: what both laws are conditioned on, "(c, y)", "c" or "none"; bounds ask for a certain one.
      space: the representations' space (model, hook point, pooling, width); bounds refuse to combine two.
      level: coverage of `interval`.
    """

    value: jax.Array | float
    standard_error: jax.Array | float | None = None
    interval: Interval | None = None
    null: jax.Array | float | None = None
    split_half: jax.Array | float | None = None
    p_value: jax.Array | float | None = None
    converged: jax.Array | bool | None = None
    discarded: jax.Array | float | None = None
    n: int = field(default=0, metadata={"static": True})
    m: int = field(default=0, metadata={"static": True})
    name: str = field(default="known", metadata={"static": True})
    given: str = field(default="none", metadata={"static": True})
    space: str = field(default="", metadata={"static": True})
    level: float = field(default=0.95, metadata={"static": True})


def known(value: float, *, given: str = "none", space: str = "", name: str = "known") -> Distance:
    """A distance that is known exactly, without a sample.

    Args:
      value: the distance, >= 0.
      given: what both laws are conditioned on: "(c, y)", "c" or "none".
      space: the name of the representations' space.
      name: which distance it is.

    Returns:
      A `Distance` without uncertainty, `n` = `m` = 0.

    Raises:
      ValueError: if `value` is negative or NaN, or `given` is none of the three.
    """
    check_given(given)
    if not value >= 0:  # NaN is not either
        raise ValueError(f"value must be a distance of at least 0, got {value}")
    return Distance(value, converged=True, name=name, given=given, space=space)
