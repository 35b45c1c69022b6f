"""Gaussian channels whose decoder reads a subspace, or one that carries nothing: known answers to compare with."""

import numpy as np

from gmijax.rates.channels.gaussian import VectorGaussian


def _spectrum(dimension: int, decay: float, scale: float) -> np.ndarray:
    return scale * np.arange(1, dimension + 1) ** -float(decay)


def _cosines(dimension: int) -> np.ndarray:
    """The orthogonal DCT-IV matrix: a fixed rotation that no coordinate axis survives."""
    index = np.arange(dimension) + 0.5
    return np.sqrt(2 / dimension) * np.cos(np.pi * np.outer(index, index) / dimension)


def _banded(size: int, variance: float, correlation: float) -> np.ndarray:
    index = np.arange(size)
    return variance * float(correlation) ** np.abs(index[:, None] - index)


def coordinates(
    dimension: int,
    read: int,
    *,
    decay: float,
    scale: float,
    variance: float,
    variance_hat: float | None = None,
    correlation_hat: float | None = None,
    shift: float = 0.0,
) -> VectorGaussian:
    """Y = Z + noise, and a decoder that reads the first coordinates and ignores the rest.

    Args:
      dimension: d.
      read: how many coordinates the decoder reads.
      decay: Sigma = diag(scale (i + 1)^-decay).
      scale: see `decay`.
      variance: of the noise in each coordinate.
      variance_hat: the decoder's noise variance in every coordinate; None for a decoder that knows the noise and the
        variance of what it ignores.
      correlation_hat: the decoder's noise correlation between neighbours, falling geometrically; with `variance_hat`.
      shift: the mean of Z, in every coordinate.

    Returns:
      The channel.
    """
    spectrum = _spectrum(dimension, decay, scale)
    reads = np.arange(dimension) < read
    if variance_hat is None:
        noise_hat = np.diag(variance + np.where(reads, 0, spectrum))
    else:
        noise_hat = _banded(dimension, variance_hat, correlation_hat or 0.0)
    return VectorGaussian(
        mean=np.full(dimension, float(shift)),
        covariance=np.diag(spectrum),
        gain=np.eye(dimension),
        noise_covariance=variance * np.eye(dimension),
        gain_hat=np.diag(reads.astype(float)),
        noise_covariance_hat=noise_hat,
        subspace=read,
    )


def rotated_subspace(
    dimension: int,
    read: int,
    *,
    decay: float,
    scale: float,
    variance: float,
    variance_hat: float,
    shift: float = 0.0,
) -> VectorGaussian:
    """Y = Z + noise, and a decoder that projects on the first columns of a rotation; arguments as `coordinates`."""
    basis = _cosines(dimension)[:, :read]
    return VectorGaussian(
        mean=np.full(dimension, float(shift)),
        covariance=np.diag(_spectrum(dimension, decay, scale)),
        gain=np.eye(dimension),
        noise_covariance=variance * np.eye(dimension),
        gain_hat=basis @ basis.T,
        noise_covariance_hat=variance_hat * np.eye(dimension),
    )


def readout(
    dimension: int,
    outputs: int,
    read: int,
    *,
    decay: float,
    scale: float,
    gain: float,
    variance: float,
    variance_hat: float | None = None,
    correlation_hat: float = 0.0,
    shift: float = 0.0,
) -> VectorGaussian:
    """A few linear read-outs of Z, and a decoder that reads the first coordinates of it.

    Args:
      dimension: d.
      outputs: m.
      read: how many coordinates of Z the decoder reads.
      decay: as in `coordinates`.
      scale: as in `coordinates`.
      gain: the read-out is `gain` times rows of a rotation.
      variance: of the noise in each output.
      variance_hat: the decoder's noise variance; None for a decoder that marginalises what it ignores.
      correlation_hat: the decoder's noise correlation between neighbouring outputs; with `variance_hat`.
      shift: the mean of Z, in every coordinate.

    Returns:
      The channel.
    """
    spectrum = _spectrum(dimension, decay, scale)
    reads = np.arange(dimension) < read
    rows = gain * _cosines(dimension)[:outputs]
    noise = variance * np.eye(outputs)
    marginalised = noise + (rows * np.where(reads, 0, spectrum)) @ rows.T
    return VectorGaussian(
        mean=np.full(dimension, float(shift)),
        covariance=np.diag(spectrum),
        gain=rows,
        noise_covariance=noise,
        gain_hat=rows * reads,
        noise_covariance_hat=(
            marginalised if variance_hat is None else _banded(outputs, variance_hat, correlation_hat)
        ),
        subspace=read,
    )


def spurious(
    dimension: int,
    outputs: int,
    carrying: int,
    *,
    decay: float,
    scale: float,
    gain: float,
    weight: float,
    variance: float,
    variance_hat: float,
    shift: float = 0.0,
) -> VectorGaussian:
    """Read-outs of the first coordinates, and a decoder that also weighs coordinates that carry nothing.

    Args:
      dimension: d.
      outputs: m; at most d / 2.
      carrying: how many coordinates of Z the outputs depend on.
      decay: as in `coordinates`.
      scale: as in `coordinates`.
      gain: the read-out is `gain` times rows of a rotation.
      weight: of the nuisance coordinates in the decoder; 0 for a matched gain.
      variance: of the noise in each output.
      variance_hat: the decoder's noise variance.
      shift: the mean of Z, in every coordinate.

    Returns:
      The channel.
    """
    rotation = _cosines(dimension)
    carries = np.arange(dimension) < carrying
    rows = gain * rotation[:outputs] * carries
    return VectorGaussian(
        mean=np.full(dimension, float(shift)),
        covariance=np.diag(_spectrum(dimension, decay, scale)),
        gain=rows,
        noise_covariance=variance * np.eye(outputs),
        gain_hat=rows + weight * rotation[outputs : 2 * outputs] * ~carries,
        noise_covariance_hat=variance_hat * np.eye(outputs),
        subspace=carrying,
    )
