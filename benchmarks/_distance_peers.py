"""Distances written plainly with numpy, scipy, scikit-learn and POT: the peers of `estimators.py`, in float64."""

import numpy as np
import ot
from scipy.linalg import sqrtm
from scipy.spatial.distance import cdist, pdist
from sklearn.decomposition import PCA


def median_bandwidth(x: np.ndarray, y: np.ndarray) -> float:
    """The lower median of the pooled distances."""
    distances = pdist(np.concatenate([x, y]))
    middle = (len(distances) - 1) // 2
    return float(np.partition(distances, middle)[middle])


def _off_diagonal_mean(matrix: np.ndarray) -> float:
    n = len(matrix)
    return float((matrix.sum() - np.trace(matrix)) / (n * (n - 1)))


def mmd2(x: np.ndarray, y: np.ndarray, bandwidth: float) -> float:
    """The unbiased MMD^2 with one Gaussian kernel."""
    xx, yy, xy = (np.exp(-cdist(a, b, "sqeuclidean") / (2 * bandwidth**2)) for a, b in ((x, x), (y, y), (x, y)))
    return _off_diagonal_mean(xx) + _off_diagonal_mean(yy) - 2 * float(xy.mean())


def energy(x: np.ndarray, y: np.ndarray) -> float:
    """The unbiased energy distance."""
    return 2 * float(cdist(x, y).mean()) - _off_diagonal_mean(cdist(x, x)) - _off_diagonal_mean(cdist(y, y))


def cka(x: np.ndarray, y: np.ndarray) -> float:
    """Linear CKA, biased, from d x d matrices, in the type of its input."""
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    return float(np.linalg.norm(x.T @ y) ** 2 / (np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y)))


def projected_w1(x: np.ndarray, y: np.ndarray, axes: int, solver: str) -> float:
    """W1 on the principal axes of both samples together."""
    scores = PCA(axes, svd_solver=solver, random_state=0).fit_transform(np.concatenate([x, y]))
    cost = cdist(scores[: len(x)], scores[len(x) :])
    return float(ot.emd2(np.full(len(x), 1 / len(x)), np.full(len(y), 1 / len(y)), cost, numItermax=10**7))


def max_sliced_w1(x: np.ndarray, y: np.ndarray, starts: np.ndarray, iterations: int) -> float:
    """Projected gradient steps from the difference of the means and from `starts`, for as many rows of y as of x."""
    best = 0.0
    for start in (x.mean(axis=0) - y.mean(axis=0), *starts):
        direction = start / np.linalg.norm(start)
        for _ in range(iterations):
            order_x, order_y = np.argsort(x @ direction), np.argsort(y @ direction)
            apart = x[order_x] @ direction - y[order_y] @ direction
            best = max(best, float(np.abs(apart).mean()))
            direction = np.sign(apart) @ (x[order_x] - y[order_y])
            direction /= np.linalg.norm(direction)
    return best


def sinkhorn(x: np.ndarray, y: np.ndarray, epsilon: float, tolerance: float) -> tuple[float, float]:
    """<P, C>, and <P, C> + epsilon KL(P | a x b), by POT."""
    cost, a, b = cdist(x, y), np.full(len(x), 1 / len(x)), np.full(len(y), 1 / len(y))
    plan = ot.sinkhorn(a, b, cost, epsilon, stopThr=tolerance, numItermax=20_000)
    transport = float((plan * cost).sum())
    return transport, transport + epsilon * float((plan * np.log(plan * len(x) * len(y))).sum())


def gaussian_w2(x: np.ndarray, y: np.ndarray) -> float:
    """W2 of normal laws by scipy's matrix square roots."""
    first, second = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    root = sqrtm(first)
    cross = np.trace(sqrtm(root @ second @ root)).real
    shift = x.mean(axis=0) - y.mean(axis=0)
    return float(np.sqrt(shift @ shift + np.trace(first) + np.trace(second) - 2 * cross))


def pot_gaussian_w2(x: np.ndarray, y: np.ndarray) -> float:
    """The same by POT from numpy's covariances."""
    moments = x.mean(axis=0), y.mean(axis=0), np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    return float(ot.gaussian.bures_wasserstein_distance(*moments))
