"""The common face of the composed models: encode, adapt, merge, decode.

A composed model is an encoder, an adapter and a Llama. Whatever enters beside the text is its media: a NamedTuple of
arrays, with one item (an image, a clip) in each row. The encoder and the adapter turn items into soft tokens; a layout
says which column of the merged sequence holds which token of the text and which soft token.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.core import Tracer
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from gmijax.models._hooks import Hooks, Intervention, as_pytrees, check_hook_points
from gmijax.models.llama import Llama


class EncoderOutput(NamedTuple):
    """What an encoder makes of its items.

    Attributes:
      features: shape (items, tokens, width), what the adapter receives; None if the pass ended before them.
      mask: shape (items, tokens), true where a feature belongs to the input and not to padding; None likewise.
      hidden_states: by hook point, those that were asked for.
      masks: by hook point, the mask of its states; its axes are the first of the states.
    """

    features: jax.Array | None
    mask: jax.Array | None
    hidden_states: dict[str, jax.Array]
    masks: dict[str, jax.Array]


class SoftTokens(NamedTuple):
    """Soft tokens of shape (items, tokens, width), and their mask, shape (items, tokens)."""

    values: jax.Array
    mask: jax.Array


class Spans(NamedTuple):
    """Where the soft tokens of each item went; start == stop for an item of which none was merged.

    Attributes:
      row: shape (items,), the row of the merged sequence.
      start: shape (items,), its first column.
      stop: shape (items,), one past its last column.
    """

    row: jax.Array
    start: jax.Array
    stop: jax.Array


class Layout(NamedTuple):
    """What each column of a merged sequence holds.

    Attributes:
      rows: shape (B,), the row of `input_ids` that each row comes from.
      text: shape (B, S), the column of `input_ids`, or -1.
      soft: shape (B, S), the soft token, counted through all items, or -1. It takes precedence over `text`. A column
        with neither holds zeros.
      mask: shape (B, S), true where the column may be attended to.
    """

    rows: jax.Array
    text: jax.Array
    soft: jax.Array
    mask: jax.Array

    @property
    def modality(self) -> jax.Array:
        """Shape (B, S), true where a column holds a soft token."""
        return self.soft >= 0

    def spans(self, items: int, tokens: int) -> Spans:
        """Where each of `items` items of `tokens` soft tokens went."""
        length = self.soft.shape[1]
        places = jnp.arange(self.soft.size)
        owner = jnp.where(self.modality, self.soft // max(tokens, 1), items).reshape(-1)
        first = jax.ops.segment_min(places, owner, items + 1)[:items]
        last = jax.ops.segment_max(places, owner, items + 1)[:items]
        used = jax.ops.segment_sum(jnp.ones_like(places), owner, items + 1)[:items] > 0
        row = jnp.where(used, first // length, 0)
        return Spans(row, jnp.where(used, first % length, 0), jnp.where(used, last - row * length + 1, 0))

    def place_labels(self, labels: Int[ArrayLike, "rows length"], ignored: int = -100) -> Int[Array, "rows columns"]:
        """Labels of `input_ids` at their columns of the merged sequence; `ignored` where there is no text."""
        placed = jnp.take_along_axis(jnp.asarray(labels)[self.rows], jnp.maximum(self.text, 0), axis=1)
        return jnp.where(self.text >= 0, placed, ignored)


class Merged(NamedTuple):
    """Embeddings of shape (B, S, width) for the language model, and where each comes from."""

    embeddings: jax.Array
    layout: Layout


class ComposedOutput(NamedTuple):
    """What a call was asked for.

    Attributes:
      logits: shape (B, S, vocabulary), float32; None if not asked for.
      hidden_states: by hook point.
      masks: by hook point, true where the states belong to the input and not to padding; its axes are the first of
        the states.
      layout: what each column of the merged sequence holds; None if the pass ended before the merge.
      spans: where the soft tokens of each item went; None without media.
    """

    logits: jax.Array | None
    hidden_states: dict[str, jax.Array]
    masks: dict[str, jax.Array]
    layout: Layout | None
    spans: Spans | None


class Composed(nnx.Module):
    """Base of the composed models, which supply `Media`, `encoder_hook_points` and the methods marked as theirs.

    As with `Llama`, pass the module through `jit` as an argument, never by closure.

    Attributes:
      Media: the NamedTuple of a model's media; every field is an array or None.
      DEAD_ENDS: hook points that feed nothing later, at which an intervention is refused, each with the reason.
      language_model: the decoder.
    """

    Media: ClassVar[Any]
    DEAD_ENDS: ClassVar[Mapping[str, str]] = {}
    language_model: Llama

    @property
    def dtype(self) -> jnp.dtype:
        """Of the activations."""
        return self.language_model.dtype

    @property
    def encoder_hook_points(self) -> tuple[str, ...]:
        """Names of the hidden states of the encoder."""
        raise NotImplementedError

    @property
    def hook_points(self) -> tuple[str, ...]:
        """Names of the hidden states that a call can return.

        `encoder_hidden_k` is the output of block k of the encoder, `encoder_output` what the paper takes for the
        encoder's, `adapter_input` what the adapter receives, `adapter_output` the soft tokens; then those of the
        decoder: `inputs_embeds` after the merge, `llm_hidden_k` and `llm_final`.
        """
        return (*self.encoder_hook_points, "adapter_input", "adapter_output", *self.language_model.hook_points)

    def encode(
        self,
        media: Any,
        *,
        hook_points: Sequence[str] = (),
        interventions: Mapping[str, Intervention] | None = None,
    ) -> EncoderOutput:
        """Runs the encoder.

        Args:
          media: the items.
          hook_points: names of hidden states of the encoder to return; also `adapter_input`.
          interventions: as in a call.

        Raises:
          ValueError: media that the model does not take, an unknown hook point, or one that is not the encoder's.
        """
        self._check_hook_points(hook_points, interventions)
        beyond = [name for name in hook_points if name not in (*self.encoder_hook_points, "adapter_input")]
        if beyond:
            raise ValueError(f"hook_points {', '.join(map(repr, beyond))} lie behind the encoder; call the model")
        arguments = {"media": self._check_media(media), "interventions": as_pytrees(interventions)}
        return _jitted(*nnx.split(self), "_encode_only", arguments, hook_points=tuple(hook_points))

    def soft_tokens(self, media: Any, *, interventions: Mapping[str, Intervention] | None = None) -> SoftTokens:
        """Runs the encoder and the adapter.

        Args:
          media: the items.
          interventions: as in a call.

        Raises:
          ValueError: as `encode`.
        """
        self._check_hook_points((), interventions)
        arguments = {"media": self._check_media(media), "interventions": as_pytrees(interventions)}
        return _jitted(*nnx.split(self), "_soft_tokens_only", arguments)

    def merge(
        self,
        input_ids: Int[ArrayLike, "batch length"],
        soft_tokens: Float[ArrayLike, "items tokens width"],
        media: Any,
        *,
        attention_mask: Bool[ArrayLike, "batch length"] | Int[ArrayLike, "batch length"] | None = None,
    ) -> Merged:
        """Puts soft tokens among the embeddings of a text, as a call does.

        Args:
          input_ids: token ids.
          soft_tokens: those of `media`, or others of their shape.
          media: the items; of them only what says where they go is read.
          attention_mask: 1 at tokens, 0 at padding. All ones by default.

        Raises:
          ValueError: soft tokens of another shape, or whose number is not that of their places.
        """
        text = self._check_text(input_ids, attention_mask)
        arguments = {**text, "media": self._check_media(media), "soft": jnp.asarray(soft_tokens, self.dtype)}
        self._check_places(arguments["input_ids"], arguments["media"])
        return _jitted(*nnx.split(self), "_merge", arguments)

    def __call__(
        self,
        input_ids: Int[ArrayLike, "batch length"],
        media: Any = None,
        *,
        soft_tokens: Float[ArrayLike, "items tokens width"] | None = None,
        attention_mask: Bool[ArrayLike, "batch length"] | Int[ArrayLike, "batch length"] | None = None,
        hook_points: Sequence[str] = (),
        interventions: Mapping[str, Intervention] | None = None,
        logits: bool = True,
        remat: bool = False,
    ) -> ComposedOutput:
        """Runs the model.

        Args:
          input_ids: token ids, with placeholders where the model has any.
          media: the items; none for text alone.
          soft_tokens: in place of those of `media`, whose encoder is then not run; a gradient with respect to the
            adapter's output is one with respect to these.
          attention_mask: 1 at tokens, 0 at padding, on either side. All ones by default.
          hook_points: names of the hidden states to return, as they are after any intervention.
          interventions: by hook point, a function from its states to states of the same shape, applied on the way.
            Pass arrays that vary as leaves of a `jax.tree_util.Partial`: any other function is compiled anew.
          logits: whether to compute the logits. The pass ends at the last place that something needs.
          remat: recompute the layers in a backward pass, which then holds the input of each layer and no more.

        Returns:
          The logits and hidden states asked for, with masks and spans.

        Raises:
          ValueError: inputs that do not fit together or with the config, an unknown hook point, or an intervention
            that never fires because nothing that was asked for needs its hook point.
        """
        self._check_hook_points(hook_points, interventions)
        text = self._check_text(input_ids, attention_mask)
        media = None if media is None else self._check_media(media)
        if soft_tokens is not None and media is None:
            raise ValueError("soft_tokens need media, which say where they go")
        if media is not None:
            self._check_places(text["input_ids"], media)
        arguments = {
            **text,
            "media": media,
            "soft": None if soft_tokens is None else jnp.asarray(soft_tokens, self.dtype),
            "interventions": as_pytrees(interventions),
        }
        return _jitted(*nnx.split(self), "_run", arguments, hook_points=tuple(hook_points), logits=logits, remat=remat)

    # What the models supply

    def _layout(
        self, input_ids: Int[Array, "batch length"], mask: Bool[Array, "batch length"], media: Any, soft_mask: Array
    ) -> Layout:
        """Where the text and the soft tokens go; of the media only what says that is read."""
        raise NotImplementedError

    def _encode(self, media, hooks: Hooks, *, features: bool, remat: bool):
        """The features and their mask, visiting the hook points on the way; (None, None) unless `features`."""
        raise NotImplementedError

    def _adapt(self, features):
        """Soft tokens, in the type of the activations."""
        raise NotImplementedError

    def _soft_mask(self, media) -> jax.Array:
        """Shape (items, tokens): which soft tokens belong to the input. Runs no encoder."""
        raise NotImplementedError

    def _check_places(self, input_ids, media) -> None:
        """Raises where the number of soft tokens is not that of their places, if values can be seen."""

    # The pass, under `jit`

    def _encode_only(self, media, interventions, hook_points) -> EncoderOutput:
        hooks = Hooks(hook_points, interventions)
        features, mask = self._features(media, hooks, wanted=True)
        hooks.finish()
        states, masks = ({name: kept[name] for name in hook_points} for kept in (hooks.states, hooks.masks))
        return EncoderOutput(features, mask, states, masks)

    def _soft_tokens_only(self, media, interventions) -> SoftTokens:
        hooks = Hooks((), interventions)
        soft = self._soften(media, hooks)
        hooks.finish()
        return SoftTokens(soft, self._soft_mask(media))

    def _features(self, media, hooks, *, wanted, remat=False):
        features, mask = self._encode(media, hooks, features=wanted, remat=remat)
        return (hooks.visit("adapter_input", features, mask), mask) if wanted else (None, None)

    def _soften(self, media, hooks, *, remat=False):
        features, _ = self._features(media, hooks, wanted=True, remat=remat)
        return hooks.visit("adapter_output", self._adapt(features), self._soft_mask(media))

    def _merge(self, input_ids, mask, media, soft) -> Merged:
        soft_mask = self._soft_mask(media)
        if soft.shape[:2] != soft_mask.shape or soft.shape[2] != self.language_model.config.hidden_size:
            expected = (*soft_mask.shape, self.language_model.config.hidden_size)
            raise ValueError(f"soft_tokens have shape {soft.shape}; these media give {expected}")
        layout = self._layout(input_ids, mask, media, soft_mask)
        return Merged(merge(self.language_model.embed_tokens(input_ids), soft, layout), layout)

    def _run(self, input_ids, mask, media, soft, interventions, hook_points, logits, remat) -> ComposedOutput:
        hooks = Hooks(hook_points, interventions)
        decoding = logits or not {*hook_points}.isdisjoint(self.language_model.hook_points)
        adapting = decoding or "adapter_output" in hook_points
        layout, spans, embeddings, scores = None, None, None, None
        if media is None:
            layout = plain_layout(mask)
            embeddings = self.language_model.embed_tokens(input_ids)
        elif soft is not None:
            soft = hooks.visit("adapter_output", soft, self._soft_mask(media))
        elif adapting:
            soft = self._soften(media, hooks, remat=remat)
        else:
            self._features(media, hooks, wanted="adapter_input" in hook_points, remat=remat)
        if decoding:
            if media is not None and soft is not None:
                embeddings, layout = self._merge(input_ids, mask, media, soft)
                spans = layout.spans(*soft.shape[:2])
            assert embeddings is not None
            assert layout is not None
            scores = self.language_model.run(embeddings, hooks=hooks, valid=layout.mask, logits=logits, remat=remat)
        hooks.finish()
        silent = [name for name in hook_points if name not in hooks.states]
        if silent:
            reason = "soft_tokens were given in place of it" if media is not None else "media were not given"
            raise ValueError(f"hook_points {', '.join(map(repr, silent))} are not passed: {reason}")
        return ComposedOutput(
            logits=None if scores is None else scores.logits,
            hidden_states={name: hooks.states[name] for name in hook_points},
            masks={name: hooks.masks[name] for name in hook_points},
            layout=layout,
            spans=spans,
        )

    # Checks

    def _check_hook_points(self, names, interventions):
        check_hook_points(self.hook_points, names, interventions)
        for name in interventions or ():
            if name in self.DEAD_ENDS:
                raise ValueError(f"an intervention at {name!r} changes nothing: {self.DEAD_ENDS[name]}")

    def _check_media(self, media):
        if not isinstance(media, self.Media):
            raise ValueError(
                f"media is a {type(media).__name__}; give {type(self).__name__}.Media({', '.join(self.Media._fields)})"
            )
        return self.Media(*(None if field is None else jnp.asarray(field) for field in media))

    def _check_text(self, input_ids, attention_mask):
        ids = jnp.asarray(input_ids)
        mask = jnp.ones(ids.shape, bool) if attention_mask is None else jnp.asarray(attention_mask, bool)
        if ids.ndim != 2 or mask.shape != ids.shape:
            raise ValueError(f"input_ids have shape {ids.shape} and attention_mask {mask.shape}; give (B, T) for both")
        return {"input_ids": ids, "mask": mask}


@partial(jax.jit, static_argnames=("graph", "method", "hook_points", "logits", "remat"))
def _jitted(graph, state, method, arguments, **static):
    """Compiled once for each shape, so that a call outside of any `jit` is not compiled anew."""
    return getattr(nnx.merge(graph, state), method)(**arguments, **static)


def merge(
    text: Float[Array, "batch length width"], soft: Float[Array, "items tokens width"], layout: Layout
) -> Float[Array, "rows columns width"]:
    """The one merge of all models: embeddings of text and soft tokens at the columns that a layout says.

    A soft token that does not exist, because there are more places than tokens, is NaN.
    """
    columns = jnp.take_along_axis(text[layout.rows], jnp.maximum(layout.text, 0)[..., None], axis=1)
    columns = jnp.where((layout.text >= 0)[..., None], columns, 0)
    flat = soft.astype(text.dtype).reshape(-1, soft.shape[-1])
    chosen = flat.at[jnp.maximum(layout.soft, 0)].get(mode="fill", fill_value=jnp.nan)
    return jnp.where(layout.modality[..., None], chosen, columns)


def plain_layout(mask: Bool[Array, "batch length"]) -> Layout:
    """The layout of text alone, shape (B, T)."""
    columns = jnp.broadcast_to(jnp.arange(mask.shape[1]), mask.shape)
    return Layout(jnp.arange(mask.shape[0]), columns, jnp.full(mask.shape, -1), mask)


def placeholder_layout(
    input_ids: Int[Array, "batch length"],
    mask: Bool[Array, "batch length"],
    token: int,
    soft_mask: Bool[Array, "items tokens"],
) -> Layout:
    """Soft tokens where `input_ids` hold a placeholder: the n-th of the mask at the n-th, in row-major order."""
    places = input_ids == token
    order = jnp.cumsum(places.reshape(-1)).reshape(places.shape) - 1
    tokens = jnp.nonzero(soft_mask.reshape(-1), size=soft_mask.size, fill_value=soft_mask.size)[0]
    chosen = tokens.at[order].get(mode="fill", fill_value=soft_mask.size)
    return plain_layout(mask)._replace(soft=jnp.where(places, chosen, -1))


def check_placeholders(input_ids: Array, token: int, soft_mask: Array, what: str) -> None:
    """Raises where the number of placeholders is not that of the soft tokens, if values can be seen.

    Args:
      input_ids: token ids.
      token: the placeholder.
      soft_mask: the mask of the soft tokens.
      what: the items in words.
    """
    if isinstance(input_ids, Tracer) or isinstance(soft_mask, Tracer):
        return
    places, tokens = int(np.sum(np.asarray(input_ids) == token)), int(np.sum(np.asarray(soft_mask)))
    if places != tokens:
        raise ValueError(
            f"input_ids hold {places} placeholders (id {token}) for the {tokens} soft tokens of {what}; "
            "each soft token needs one"
        )
