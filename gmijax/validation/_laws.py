"""Modal laws: shifts of the soft tokens that carry a text, at growing strength."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class Law(NamedTuple):
    """One modal law.

    Attributes:
      name: what is shifted.
      strength: how far, in the law's own unit.
      draws: how many soft-token blocks each text has under it; 1 where the shift is deterministic.
    """

    name: str
    strength: float
    draws: int


class Family(NamedTuple):
    """A shift with its strengths and what they mean."""

    unit: str
    random: bool
    quick: tuple[float, ...]
    full: tuple[float, ...]
    shift: Callable[[np.ndarray, float, float, np.random.Generator], np.ndarray]


def _mean_shift(z: np.ndarray, strength: float, spread: float, rng: np.random.Generator) -> np.ndarray:
    direction = rng.normal(size=z.shape[-1])
    length = strength * spread * np.sqrt(z.shape[-1])
    return z + length * direction / np.linalg.norm(direction)


def _noise(z: np.ndarray, strength: float, spread: float, rng: np.random.Generator) -> np.ndarray:
    return z + strength * spread * rng.normal(size=z.shape)


def _subspace(width: int, share: float, rng: np.random.Generator) -> np.ndarray:
    return np.linalg.qr(rng.normal(size=(width, max(1, round(share * width)))))[0]


def _rotation(z: np.ndarray, degrees: float, spread: float, rng: np.random.Generator) -> np.ndarray:
    basis = _subspace(z.shape[-1], 0.5, rng)
    half = basis.shape[1] // 2
    first, second = z @ basis[:, :half], z @ basis[:, half : 2 * half]
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    turned = (cos * first - sin * second) @ basis[:, :half].T + (sin * first + cos * second) @ basis[
        :, half : 2 * half
    ].T
    return z - first @ basis[:, :half].T - second @ basis[:, half : 2 * half].T + turned


def _replacement(z: np.ndarray, share: float, spread: float, rng: np.random.Generator) -> np.ndarray:
    basis = _subspace(z.shape[-1], share, np.random.default_rng(0))  # one subspace, new content at every draw
    return z - z @ basis @ basis.T + spread * rng.normal(size=(*z.shape[:-1], basis.shape[1])) @ basis.T


FAMILIES = {
    "mean shift": Family(
        "length over the embeddings' rms norm",
        False,
        (0.2, 0.4, 0.8),
        (0.1, 0.2, 0.3, 0.4, 0.6, 0.8),
        _mean_shift,
    ),
    "noise": Family(
        "standard deviation over the embeddings' spread", True, (0.5, 1.0, 1.5), (0.4, 0.7, 0.9, 1.1, 1.3, 1.6), _noise
    ),
    "rotation": Family("degrees, in half of the dimensions", False, (30, 60, 90), (15, 30, 45, 60, 75, 90), _rotation),
    "replacement": Family(
        "share of the dimensions", True, (0.15, 0.3, 0.45), (0.1, 0.2, 0.3, 0.35, 0.4, 0.5), _replacement
    ),
}


def laws(*, quick: bool, draws: int) -> list[Law]:
    """All modal laws of a run, in order."""
    return [
        Law(name, strength, draws if family.random else 1)
        for name, family in FAMILIES.items()
        for strength in (family.quick if quick else family.full)
    ]


def shift(z: np.ndarray, law: Law, mask: np.ndarray, *, seed: int) -> np.ndarray:
    """The soft tokens of every text under a law.

    Args:
      z: the texts' own soft tokens, shape (texts, tokens, width).
      law: the modal law.
      mask: shape (texts, tokens), true at tokens; padding stays zero.
      seed: of the run. A law's randomness is its own, so that dropping one changes no other.

    Returns:
      Shape (draws * texts, tokens, width), draw by draw, float32.
    """
    family = FAMILIES[law.name]
    spread = float(z[mask].std())
    # Strengths of a family share their direction or subspace, so that they differ in strength alone.
    keys = [seed, list(FAMILIES).index(law.name)]
    blocks = [family.shift(z, law.strength, spread, np.random.default_rng([*keys, draw])) for draw in range(law.draws)]
    return np.where(np.tile(mask, (law.draws, 1))[..., None], np.concatenate(blocks), 0).astype(np.float32)
