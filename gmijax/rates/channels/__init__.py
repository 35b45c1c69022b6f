"""Channels whose rates are known exactly: what estimators are tested against."""

from gmijax.rates.channels._base import Channel, ChannelRates
from gmijax.rates.channels.finite import (
    BinaryAsymmetric,
    BinarySymmetric,
    ConditionalDiscrete,
    DiscreteMemoryless,
    z_channel,
)
from gmijax.rates.channels.gaussian import ScalarGaussian, VectorGaussian
from gmijax.rates.channels.labels import GaussianLabels
from gmijax.rates.channels.modulation import Modulation, RotatedQAM
from gmijax.rates.channels.noise import Noise
from gmijax.rates.channels.subspaces import coordinates, readout, rotated_subspace, spurious

__all__ = [
    "BinaryAsymmetric",
    "BinarySymmetric",
    "Channel",
    "ChannelRates",
    "ConditionalDiscrete",
    "DiscreteMemoryless",
    "GaussianLabels",
    "Modulation",
    "Noise",
    "RotatedQAM",
    "ScalarGaussian",
    "VectorGaussian",
    "coordinates",
    "readout",
    "rotated_subspace",
    "spurious",
    "z_channel",
]
