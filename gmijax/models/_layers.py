"""Layers that several models are made of."""

from collections.abc import Callable
from functools import partial

import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.typing import DTypeLike


def linear(rngs: nnx.Rngs, dtype: DTypeLike, param_dtype: DTypeLike, *, use_bias: bool = False) -> Callable:
    """A maker of linear layers, called as `make(inputs, outputs)`."""
    return partial(nnx.Linear, use_bias=use_bias, dtype=dtype, param_dtype=param_dtype, rngs=rngs)


class RMSNorm(nnx.Module):
    """Root-mean-square norm over the last axis, computed in float32."""

    def __init__(self, width: int, epsilon: float, param_dtype: DTypeLike):
        self.scale = nnx.Param(jnp.ones(width, param_dtype))
        self.epsilon = epsilon

    def __call__(self, x):
        y = x.astype(jnp.float32)
        y = y * lax.rsqrt(jnp.mean(jnp.square(y), axis=-1, keepdims=True) + self.epsilon)
        return self.scale[...].astype(x.dtype) * y.astype(x.dtype)  # the cast comes first in the original too


class LayerNorm(nnx.Module):
    """Layer norm over the last axis, computed in float32 throughout, as torch does."""

    def __init__(self, width: int, epsilon: float, param_dtype: DTypeLike):
        self.scale = nnx.Param(jnp.ones(width, param_dtype))
        self.bias = nnx.Param(jnp.zeros(width, param_dtype))
        self.epsilon = epsilon

    def __call__(self, x):
        y = x.astype(jnp.float32)
        y = y - jnp.mean(y, axis=-1, keepdims=True)
        y = y * lax.rsqrt(jnp.mean(jnp.square(y), axis=-1, keepdims=True) + self.epsilon)
        return (y * self.scale[...].astype(jnp.float32) + self.bias[...].astype(jnp.float32)).astype(x.dtype)
