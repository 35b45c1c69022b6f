"""Attention: JAX's own, and over several sources of keys at once, none of them repeated."""

import math
from collections.abc import Sequence
from functools import reduce
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax


class Part(NamedTuple):
    """Attention to one source of keys, its softmax left open; float32.

    Attributes:
      values: the sum of the values, each times exp(score - largest); shape (b, n, kv heads, group, head_dim).
      largest: the largest score; shape (b, n, kv heads, group, 1).
      total: the sum of the exponentials; as `largest`.
    """

    values: jax.Array
    largest: jax.Array
    total: jax.Array


def dot_product_attention(q, k, v, mask=None) -> jax.Array:
    """`jax.nn.dot_product_attention` for every type: XLA's CPU backend refuses its float16 products."""
    wide = jnp.float32 if q.dtype == jnp.float16 else q.dtype
    return jax.nn.dot_product_attention(q.astype(wide), k.astype(wide), v.astype(wide), mask=mask).astype(q.dtype)


def attend(q, k, v, mask) -> Part:
    """Attends from q, shape (b, n, kv heads, group, head_dim), to k and v, shape (b, s, kv heads, head_dim).

    The mask, shape (b or 1, n or 1, s), is true where attention is allowed.
    """
    scores = jnp.einsum("bnhgd,bshd->bhgns", q, k, preferred_element_type=jnp.float32)
    scores = jnp.where(mask[:, None, None], scores / math.sqrt(q.shape[-1]), jnp.finfo(jnp.float32).min)
    largest = lax.stop_gradient(jnp.max(scores, axis=-1, keepdims=True))
    weights = jnp.exp(scores - largest)
    total = jnp.sum(weights, axis=-1, keepdims=True)
    values = jnp.einsum("bhgns,bshd->bnhgd", weights.astype(v.dtype), v, preferred_element_type=jnp.float32)
    return Part(values, jnp.moveaxis(largest, 3, 1), jnp.moveaxis(total, 3, 1))


def joint_softmax(parts: Sequence[Part]) -> jax.Array:
    """Closes the softmax over the keys of all sources together."""
    largest = reduce(jnp.maximum, [part.largest for part in parts])
    weights = [jnp.exp(part.largest - largest) for part in parts]
    values = reduce(jnp.add, [weight * part.values for weight, part in zip(weights, parts, strict=True)])
    return values / reduce(jnp.add, [weight * part.total for weight, part in zip(weights, parts, strict=True)])
