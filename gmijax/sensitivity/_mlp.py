"""Certified Lipschitz constants of small multilayer perceptrons, by interval bounds over a box. Host, float64.

Pre-activations are enclosed layer by layer, and with them each activation's slope. The gradient, a product of weights
and these slopes, is then enclosed in two ways that are both theorems: entry by entry (interval arithmetic), and as a
centre with a Euclidean ball around it (spectral norms). The smaller norm counts. Every operation is rounded outwards.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import erfc, expit

from gmijax.sensitivity._certified import CertifiedConstant, certified_constant, check_weight, norm_margin

EPS = float(np.finfo(np.float64).eps)
TINY = 1e-300  # covers what underflows


class _Nonlinearity(NamedTuple):
    """A scalar function, its slope, and where on the line each of them turns."""

    value: Callable[[np.ndarray], np.ndarray]
    slope: Callable[[np.ndarray], np.ndarray]
    value_turns: tuple[float, ...]
    slope_turns: tuple[float, ...]


def _density(x: np.ndarray) -> np.ndarray:
    return np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi)


def _normal_cdf(x: np.ndarray) -> np.ndarray:
    return erfc(-x / np.sqrt(2)) / 2


# Between its turns a function is monotone, so that its range over an interval is that of the ends and the turns inside.
# A value turns where the slope is zero, a slope where the curvature is; a turn's rounding counts by its square only.
_NONLINEARITIES: dict[str, _Nonlinearity] = {
    "gelu": _Nonlinearity(
        lambda x: x * _normal_cdf(x),
        lambda x: _normal_cdf(x) + x * _density(x),
        (-0.7517915246935645,),
        (-(2**0.5), 2**0.5),
    ),
    "relu": _Nonlinearity(lambda x: np.maximum(x, 0), lambda x: (x > 0).astype(np.float64), (), ()),
    "sigmoid": _Nonlinearity(expit, lambda x: expit(x) * expit(-x), (), (0.0,)),
    "silu": _Nonlinearity(
        lambda x: x * expit(x),
        lambda x: expit(x) * (1 + x * expit(-x)),
        (-1.2784645427610738,),
        (-2.3993572805154675, 2.3993572805154675),
    ),
    "softplus": _Nonlinearity(lambda x: np.logaddexp(0, x), expit, (), ()),
    "tanh": _Nonlinearity(np.tanh, lambda x: 1 / np.cosh(np.clip(x, -350, 350)) ** 2, (), (0.0,)),
}


class _Box(NamedTuple):
    """Arrays between two arrays, entry by entry."""

    lower: np.ndarray
    upper: np.ndarray

    @property
    def centre(self) -> np.ndarray:
        return (self.lower + self.upper) / 2

    @property
    def radius(self) -> np.ndarray:
        """From the centre, rounded up."""
        return (self.upper - self.lower) / 2 + EPS * np.maximum(np.abs(self.lower), np.abs(self.upper)) + TINY

    @property
    def size(self) -> np.ndarray:
        """The largest absolute value."""
        return np.maximum(np.abs(self.lower), np.abs(self.upper))


def _around(centre: np.ndarray, radius: np.ndarray) -> _Box:
    margin = radius * (1 + 4 * EPS) + 2 * EPS * np.abs(centre) + TINY
    return _Box(centre - margin, centre + margin)


def _product_error(terms: int, absolute: np.ndarray) -> np.ndarray:
    """What a dot product of so many terms may be off by, the sum of its absolute terms given (Higham, section 3.1)."""
    return (terms + 3) * EPS * absolute + TINY


def _times(box: _Box, matrix: np.ndarray) -> _Box:
    """The product with a matrix, shape (..., n)."""
    spread = box.radius @ np.abs(matrix)
    error = _product_error(len(matrix), box.size @ np.abs(matrix))
    return _around(box.centre @ matrix, spread + error)


def _range(
    function: Callable[[np.ndarray], np.ndarray], turns: tuple[float, ...], box: _Box, tolerance: float = 16 * EPS
) -> _Box:
    """The range of a scalar function that is monotone between its turns, over every entry's interval."""
    places = [box.lower, box.upper, *(np.clip(turn, box.lower, box.upper) for turn in turns)]
    values = np.stack([function(place) for place in places])
    pad = tolerance * (1 + box.size)
    return _Box(values.min(0) - pad, values.max(0) + pad)


def _scaled(box: _Box, factor: _Box) -> _Box:
    """Entry by entry products of two enclosures."""
    corners = np.stack([a * b for a in box for b in factor])
    lower, upper = corners.min(0), corners.max(0)
    return _Box(lower - EPS * np.abs(lower) - TINY, upper + EPS * np.abs(upper) + TINY)


def _spectral_norm(matrix: np.ndarray) -> float:
    """Not below the largest singular value, provided LAPACK's error stays below 4 max(m, n) eps |A|_F."""
    return float(np.linalg.norm(matrix, 2) + 4 * max(matrix.shape) * EPS * np.linalg.norm(matrix))


def _norms(rows: np.ndarray) -> np.ndarray:
    return np.linalg.norm(rows, axis=1) * norm_margin(rows.shape[1])


class _Layer(NamedTuple):
    """What a gradient is multiplied by on its way back through a hidden layer: slopes first, then the weight."""

    slope: _Box
    weight: np.ndarray
    norm: float  # of the weight
    scaled_norm: float  # of the weight with its rows times the largest slopes

    def interval(self, rows: _Box) -> _Box:
        """Every entry enclosed."""
        return _times(_scaled(rows, self.slope), self.weight)

    def ball(self, centre: np.ndarray, radius: np.ndarray, *, centred: bool) -> tuple[np.ndarray, np.ndarray]:
        """Rows within a Euclidean radius of a centre, which is zero afterwards unless `centred`."""
        spread = self.slope.radius if centred else self.slope.size
        radius = (_norms(np.abs(centre) * spread) * self.norm + radius * self.scaled_norm) * (1 + 8 * EPS)
        if not centred:
            return np.zeros((len(centre), self.weight.shape[1])), radius
        scaled = centre * self.slope.centre
        error = _product_error(len(self.weight) + 1, np.abs(scaled) @ np.abs(self.weight))
        return scaled @ self.weight, (radius + _norms(error)) * (1 + 4 * EPS)


def _layer(slope: _Box, weight: np.ndarray) -> _Layer:
    return _Layer(slope, weight, _spectral_norm(weight), _spectral_norm(slope.size[:, None] * weight))


def _largest_norm(rows: _Box, layers: list[_Layer]) -> float:
    """Not below the norm of any row, once through all layers: the smallest of the valid bounds of each."""
    entries, balls = rows, {centred: (rows.centre, _norms(rows.radius)) for centred in (True, False)}
    for layer in reversed(layers):
        entries = layer.interval(entries)
        balls = {centred: layer.ball(*ball, centred=centred) for centred, ball in balls.items()}
    bounds = [_norms(entries.size), *((_norms(centre) + radius) * (1 + 4 * EPS) for centre, radius in balls.values())]
    return float(np.minimum.reduce(bounds).max())


def _enclose(weights: list[np.ndarray], biases: list[np.ndarray], box: _Box, activation: _Nonlinearity) -> list[_Box]:
    """The slopes of every hidden layer's activation over a box of inputs."""
    slopes = []
    for weight, bias in zip(weights, biases, strict=True):
        sums = _times(box, weight.T)
        shifted = _Box(sums.lower + bias, sums.upper + bias)
        box = _around(shifted.centre, shifted.radius)
        slopes.append(_range(activation.slope, activation.slope_turns, box))
        box = _range(activation.value, activation.value_turns, box)
    return slopes


def certified_mlp(
    weights: Sequence[ArrayLike],
    biases: Sequence[ArrayLike],
    lower: ArrayLike,
    upper: ArrayLike,
    *,
    activation: str,
    head: str = "softmax",
    space: str,
) -> CertifiedConstant:
    """A Lipschitz constant of a multilayer perceptron's scores over a box, by interval bounds.

    The logits are W_m a(... a(W_1 z + b_1) ...) + b_m. Under the head "linear" the scores are the logits; under
    "softmax" l_y = logit_y - logsumexp(logits), whose gradient is a mean of the gradients of logit_y - logit_k, so that
    the largest of their bounds holds. An upper bound, not the supremum: with every layer and every width of the box it
    grows looser; with no hidden layer it is `certified_linear` or, on all of space, `certified_softmax`.

    Args:
      weights: of each layer, shape (out, in), in the order of application; the first takes the flattened point.
      biases: of each layer, shape (out,).
      lower: the box's lower corner, shape (*block), e.g. the least of all points in each coordinate. The box must hold
        the supports of both laws for a bound on their difference.
      upper: its upper corner.
      activation: between layers: "gelu" (the exact one, by the error function), "relu", "sigmoid", "silu",
        "softplus" or "tanh".
      head: "softmax" or "linear".
      space: the name of the representations' space.

    Returns:
      The constant of each label's score and the largest, nats a unit of z.

    Raises:
      ValueError: for layers that do not fit together, values that are not finite, an empty box, or an unknown
        activation or head.
    """
    if activation not in _NONLINEARITIES:
        raise ValueError(f"activation must be one of {', '.join(map(repr, _NONLINEARITIES))}, got {activation!r}")
    if head not in ("linear", "softmax"):
        raise ValueError(f"head must be 'linear' or 'softmax', got {head!r}")
    box = _check_box(lower, upper)
    matrices, vectors = _check_layers(weights, biases, len(box.lower))
    *hidden, last = matrices
    slopes = _enclose(hidden, vectors[:-1], box, _NONLINEARITIES[activation])
    layers = [_layer(slope, weight) for slope, weight in zip(slopes, hidden, strict=True)]
    if head == "linear":
        rows = (_around(row[None], np.zeros_like(row)) for row in last)
    else:
        if len(last) < 2:
            raise ValueError("weights[-1] has 1 row: a softmax over one label is constant; use head='linear'")
        others = (np.delete(last, y, axis=0) for y in range(len(last)))
        rows = (_around(row - other, EPS * np.abs(row - other)) for row, other in zip(last, others, strict=True))
    by_label = np.array([_largest_norm(row, layers) for row in rows])
    domain = f"{head} scores of {activation} layers, for z in the box given"
    lapack = "LAPACK's singular values are off by less than 4 max(m, n) eps |A|_F, libm by less than 16 ulp"
    return certified_constant(by_label, None, space, domain, lapack)


def _check_box(lower: ArrayLike, upper: ArrayLike) -> _Box:
    low, high = np.asarray(lower, np.float64), np.asarray(upper, np.float64)
    if low.shape != high.shape or not low.ndim or not low.size:
        raise ValueError(f"lower and upper must have the shape of one point, got {low.shape} and {high.shape}")
    if not (np.isfinite(low).all() and np.isfinite(high).all() and (low <= high).all()):
        raise ValueError("lower must be finite and nowhere above upper, which must be finite: the box is empty")
    return _Box(low.ravel(), high.ravel())


def _check_layers(
    weights: Sequence[ArrayLike], biases: Sequence[ArrayLike], width: int
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    if not len(weights) or len(weights) != len(biases):
        raise ValueError(f"weights and biases must hold one array a layer, got {len(weights)} and {len(biases)}")
    matrices = [check_weight(weight, f"weights[{k}]") for k, weight in enumerate(weights)]
    vectors = [np.asarray(bias, np.float64) for bias in biases]
    for k, (matrix, vector) in enumerate(zip(matrices, vectors, strict=True)):
        if matrix.ndim != 2 or matrix.shape[1] != width:
            raise ValueError(f"weights[{k}] must have shape (out, {width}) to follow what comes in, got {matrix.shape}")
        if vector.shape != matrix.shape[:1] or not np.isfinite(vector).all():
            raise ValueError(f"biases[{k}] must be finite, of shape ({len(matrix)},), got shape {vector.shape}")
        width = len(matrix)
    return matrices, vectors
