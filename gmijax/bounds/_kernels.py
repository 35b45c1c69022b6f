"""The score-space theorems on one pair of finite laws: pure functions of arrays; vmap makes a batch."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import logsumexp

from gmijax.distances import w1_line, w2_line, w_inf_line

SERIES_BELOW = 1e-2  # (e^r - 1 - r) / r^2 cancels there; its series to r^4 is off by less than 1e-13


class Law(NamedTuple):
    """A finite law of inputs seen through its scores.

    Attributes:
      scores: l(z, y), (messages, atoms).
      carried: the message of each atom, (atoms,) integers.
      masses: of the atoms, summing to 1; an atom of mass 0 does not count.
    """

    scores: Any
    carried: Any
    masses: Any

    @property
    def own(self) -> jax.Array:
        """Which atoms carry each message, (messages, atoms)."""
        return jnp.arange(self.scores.shape[0])[:, None] == self.carried

    @property
    def prior(self) -> jax.Array:
        """P(y), (messages,)."""
        return jnp.sum(self.own * self.masses, axis=1)

    @property
    def matched(self) -> jax.Array:
        """The score of each atom with its own message, (atoms,)."""
        return self.scores[self.carried, jnp.arange(self.scores.shape[1])]

    def log_means(self, scale: Any) -> jax.Array:
        """The log-mean of exp(s l) over the alternatives, (messages,)."""
        return logsumexp(scale * self.scores + _log(self.masses), axis=1)

    def tilt(self, scale: Any) -> jax.Array:
        """The alternatives' law tilted by exp(s l), by message, (messages, atoms)."""
        return jnp.exp(scale * self.scores + _log(self.masses) - self.log_means(scale)[:, None])

    def ends(self) -> tuple[jax.Array, jax.Array]:
        """The smallest and largest score of each message, (messages,) each."""
        present = self.masses > 0
        low = jnp.min(jnp.where(present, self.scores, jnp.inf), axis=1)
        return low, jnp.max(jnp.where(present, self.scores, -jnp.inf), axis=1)


class InputsShift(NamedTuple):
    """B3 over inputs: means over the messages, scalars; `value` is what they make."""

    value: jax.Array
    direct: jax.Array
    competition: jax.Array
    message_law: jax.Array
    rho: jax.Array
    by_w1: jax.Array
    by_w_inf: jax.Array
    by_w2: jax.Array
    total_variation: jax.Array


class MessagesShift(NamedTuple):
    """B3 over messages: the change of I(s), and its parts by the law of inputs and the law of messages."""

    change: jax.Array
    inputs: jax.Array
    message_law: jax.Array


class CoupledShift(NamedTuple):
    """B4: the direct and the competition term's change, and the ends of the latter's sandwich."""

    direct: jax.Array
    competition: jax.Array
    lower: jax.Array
    upper: jax.Array


class Edit(NamedTuple):
    """B6: the change of I(s), its ends, and B7's ends of what is beyond the first order."""

    change: jax.Array
    lower: jax.Array
    upper: jax.Array
    half_variance: jax.Array
    second_order_lower: jax.Array
    second_order_upper: jax.Array


def _log(masses: Any) -> jax.Array:
    """The logarithm, -inf at 0, with a gradient of 0 there."""
    return jnp.where(masses > 0, jnp.log(jnp.where(masses > 0, masses, 1)), -jnp.inf)


def _given_message(law: Law) -> jax.Array:
    """The masses of each message's own atoms, (messages, atoms); all atoms' where it never occurs and counts 0."""
    return (law.own | (law.prior == 0)[:, None]) * law.masses


@partial(jax.jit, static_argnames="uniform")
def inputs_shift(text: Law, modal: Law, scale: jax.Array, *, uniform: bool) -> InputsShift:
    """B3 over inputs. `uniform` says that all atoms of either law weigh the same: transport then needs no weights."""
    before, after = text.prior, modal.prior
    shared = jnp.minimum(before, after)
    masses = (None, None) if uniform else (text.masses, modal.masses)
    first, second, farthest = (w(text.scores, modal.scores, *masses) for w in (w1_line, w2_line, w_inf_line))
    direct = scale * w1_line(text.scores, modal.scores, _given_message(text), _given_message(modal))
    log_means = jnp.stack([law.log_means(scale) for law in (text, modal)])
    log_squares = jnp.stack([law.log_means(2 * scale) for law in (text, modal)])
    rho = jnp.exp(jnp.max(log_squares / 2 - log_means, axis=0))
    (low_text, top_text), (low_modal, top_modal) = text.ends(), modal.ends()
    top = scale * jnp.maximum(top_text, top_modal)
    by_w1 = jnp.logaddexp(0.0, _log(scale * first) + top - jnp.min(log_means, axis=0))
    by_w_inf, by_w2 = scale * farthest, scale * rho * second
    smallest = jnp.minimum(by_w1, jnp.minimum(by_w_inf, by_w2))
    # A message's term of I(s) lies within s osc(l) of 0 under either law: what is not shared costs at most that.
    lost, gained = jnp.maximum(before - after, 0), jnp.maximum(after - before, 0)
    message_law = scale * jnp.sum(lost * (top_text - low_text) + gained * (top_modal - low_modal))
    direct, competition = jnp.sum(shared * direct), jnp.sum(shared * smallest)
    return InputsShift(
        value=direct + competition + message_law,
        direct=direct,
        competition=competition,
        message_law=message_law,
        rho=jnp.sum(shared * rho),
        by_w1=jnp.sum(shared * by_w1),
        by_w_inf=jnp.sum(shared * by_w_inf),
        by_w2=jnp.sum(shared * by_w2),
        total_variation=0.5 * jnp.sum(jnp.abs(after - before)),
    )


@jax.jit
def messages_shift(text: Law, modal: Law, scale: jax.Array) -> MessagesShift:
    """B3 over messages: exact, as the integrand depends on all scores of an input."""

    def mean(law: Law, prior: jax.Array) -> jax.Array:
        log_mean = logsumexp(scale * law.scores + _log(prior)[:, None], axis=0)
        return jnp.sum(law.masses * (scale * law.matched - log_mean))

    crossed, before, after = mean(modal, text.prior), mean(text, text.prior), mean(modal, modal.prior)
    return MessagesShift(after - before, crossed - before, after - crossed)


def monotone_coupling(
    x: jax.Array, masses_x: jax.Array, y: jax.Array, masses_y: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The coupling of two laws on the line that joins equal quantiles: pairs and their masses, (n + m,) each."""
    order_x, order_y = jnp.argsort(x), jnp.argsort(y)
    levels_x, levels_y = jnp.cumsum(masses_x[order_x]), jnp.cumsum(masses_y[order_y])
    levels_x, levels_y = levels_x / levels_x[-1], levels_y / levels_y[-1]
    edges = jnp.sort(jnp.concatenate([levels_x, levels_y]))
    masses = jnp.diff(edges, prepend=0)
    middles = edges - masses / 2
    rank_x = jnp.minimum(jnp.searchsorted(levels_x, middles), x.size - 1)
    rank_y = jnp.minimum(jnp.searchsorted(levels_y, middles), y.size - 1)
    return x[order_x][rank_x], y[order_y][rank_y], masses


def tilted_sandwich(x: Any, y: Any, masses: Any, scale: Any) -> tuple[jax.Array, jax.Array]:
    """B4 for one message: both ends of log E e^{s y} - log E e^{s x} over coupled pairs (x, y)."""

    def end(side: Any) -> jax.Array:
        return scale * jnp.sum(jax.nn.softmax(scale * side + _log(masses)) * (y - x))

    return end(x), end(y)


@jax.jit
def coupled_shift(text: Law, modal: Law, scale: jax.Array) -> CoupledShift:
    """B4 with the monotone coupling of each message's scores; both laws must have one law of messages."""
    coupling = jax.vmap(monotone_coupling, in_axes=(0, None, 0, None))
    pairs = coupling(text.scores, text.masses, modal.scores, modal.masses)
    lower, upper = jax.vmap(tilted_sandwich, in_axes=(0, 0, 0, None))(*pairs, scale)
    prior = text.prior
    direct = scale * (jnp.sum(modal.masses * modal.matched) - jnp.sum(text.masses * text.matched))
    competition = jnp.sum(prior * (modal.log_means(scale) - text.log_means(scale)))
    return CoupledShift(direct, competition, jnp.sum(prior * lower), jnp.sum(prior * upper))


def variance_factor(swing: jax.Array) -> jax.Array:
    """phi(r) = (e^r - 1 - r) / r^2: B7 puts log E e^x - E x within phi(-+R) Var x for x of range R."""
    small = jnp.abs(swing) < SERIES_BELOW
    safe = jnp.where(small, 1, swing)
    series = 0.5 + swing / 6 + swing**2 / 24 + swing**3 / 120 + swing**4 / 720
    return jnp.where(small, series, (jnp.expm1(safe) - safe) / safe**2)


@jax.jit
def edit(before: Law, after: Law, scale: jax.Array) -> Edit:
    """B6 and B7 for atoms that move: both laws have the same messages and masses, atom by atom."""
    prior, delta = before.prior, after.scores - before.scores
    paired = jnp.sum(before.masses * (after.matched - before.matched))
    old = before.tilt(scale)
    old_mean = jnp.sum(old * delta, axis=1)
    new_mean = jnp.sum(after.tilt(scale) * delta, axis=1)
    lower, upper = (scale * (paired - jnp.sum(prior * mean)) for mean in (new_mean, old_mean))
    change = scale * paired - jnp.sum(prior * (after.log_means(scale) - before.log_means(scale)))
    variance = scale**2 * jnp.sum(old * (delta - old_mean[:, None]) ** 2, axis=1)
    low, top = before._replace(scores=delta).ends()
    swing = scale * (top - low)
    most, least = (
        jnp.sum(prior * jnp.where(variance > 0, variance * variance_factor(signed), 0)) for signed in (swing, -swing)
    )
    return Edit(change, lower, upper, -0.5 * jnp.sum(prior * variance), -most, -least)
