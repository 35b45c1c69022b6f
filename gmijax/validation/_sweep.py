"""The main job: shift a language model's soft tokens, measure what that costs, and compare with the bounds."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from gmijax import bounds, distances, scoring, sensitivity
from gmijax.validation._decoder import Decoder, load_decoder
from gmijax.validation._laws import FAMILIES, Law, laws, shift
from gmijax.validation._measure import Scored, information_at, measure_rates
from gmijax.validation._settings import Settings
from gmijax.validation._texts import Texts, file_texts, grammar_texts

SPACE = "soft tokens"
Progress = Callable[[str, int, int], None]


def run(settings: Settings, progress: Progress) -> dict[str, Any]:
    """The whole sweep.

    Args:
      settings: what is asked for.
      progress: called with a stage's name, what is done and what there is.

    Returns:
      Plain values: `settings`, `decoder`, `texts`, `text_law`, and `laws`, one record each.

    Raises:
      ValueError, FileNotFoundError: for input that cannot be used; the message says what would do.
    """
    progress("loading the decoder", 0, 1)
    decoder = load_decoder(settings.decoder)
    texts = _texts(settings, decoder)
    progress("loading the decoder", 1, 1)

    length = max(map(len, texts.ids))
    ids = np.array([tokens + (0,) * (length - len(tokens)) for tokens in texts.ids])
    mask = np.array([[True] * len(tokens) + [False] * (length - len(tokens)) for tokens in texts.ids])
    text_tokens = np.where(mask[..., None], np.asarray(decoder.model.embed_tokens(ids)), 0).astype(np.float32)
    modal = laws(quick=settings.quick, draws=settings.draws)
    modal = [law._replace(draws=1) if settings.sentences else law for law in modal]
    blocks = [text_tokens, *(shift(text_tokens, law, mask, seed=settings.seed) for law in modal)]

    scores = scoring.score_matrix(
        decoder.model,
        np.concatenate(blocks),
        texts.ids,
        head_ids=decoder.head_ids,
        tail_ids=decoder.tail_ids,
        soft_mask=np.tile(mask, (sum(len(block) for block in blocks) // len(mask), 1)),
        memory_budget=settings.memory_budget,
        progress=lambda done, total: progress("scoring", done, total),
    )
    parts = np.split(scores, np.cumsum([len(block) for block in blocks])[:-1])
    scored = [Scored(part, np.tile(np.arange(len(ids)), len(part) // len(ids)), texts.known_law) for part in parts]

    index = _sensitivity(decoder, blocks, ids, mask, 16 if settings.quick else 64, progress)
    text_rates = measure_rates(scored[0])
    cap = math.log(len(ids))
    records = []
    for k, law in enumerate(modal):
        progress("rates and bounds", k, len(modal))
        records.append(_compare(law, blocks[0], blocks[k + 1], scored[0], scored[k + 1], text_rates, index, cap))
    progress("rates and bounds", len(modal), len(modal))
    return {
        "decoder": decoder.name,
        "prompt": {"head_tokens": len(decoder.head_ids), "tail_tokens": len(decoder.tail_ids)},
        "settings": {"quick": settings.quick, "seed": settings.seed, "draws": settings.draws},
        "texts": list(texts.texts),
        "law_of_texts_known": texts.known_law,
        "entropy_cap_nats": cap,
        "lipschitz_index": index,
        "text_law": {"rates": text_rates},
        "laws": records,
    }


def _texts(settings: Settings, decoder: Decoder) -> Texts:
    if settings.sentences is None:
        return grammar_texts(decoder.encode, (2, 2, 2, 2) if settings.quick else (3, 3, 2, 2))
    path = None if settings.sentences == "shipped" else Path(settings.sentences)
    if path is not None and not path.is_file():
        raise FileNotFoundError(f"--sentences {path} is not a file")
    return file_texts(path, decoder.encode, settings.texts)


def _sensitivity(
    decoder: Decoder, blocks: list[np.ndarray], ids: np.ndarray, mask: np.ndarray, count: int, progress: Progress
) -> dict[str, Any]:
    """The sampled Lipschitz index: gradient norms of l(z, y) over the whole block, at text and shifted points."""
    rng, modal = np.random.default_rng(0), np.concatenate(blocks[1:])
    half = min(len(ids), count // 2)
    picked = rng.choice(len(modal), half, replace=False)
    points = np.concatenate([blocks[0][:half], modal[picked]])
    carried = np.concatenate([np.arange(half), picked % len(ids)])  # every draw lists the texts in order
    others = rng.integers(0, len(ids), len(carried))  # l is a function of z for every y, not for its own alone
    targets = np.where(np.arange(len(carried)) % 2 == 0, carried, others)
    progress("gradients", 0, 1)

    score, weights = scoring.soft_token_score(decoder.model, head_ids=decoder.head_ids, tail_ids=decoder.tail_ids)
    norms = sensitivity.gradient_norms(
        score, points, ids[targets], mask[carried], mask[targets], operands=weights, mask=mask[carried]
    )
    progress("gradients", 1, 1)
    index = sensitivity.lipschitz_index(norms)
    return {name: float(getattr(index, name)) for name in ("value", "maximum", "mean")} | {
        "lower": float(index.interval.lower),
        "upper": float(index.interval.upper),
        "n": index.n,
        "kind": index.kind,
        "quantile": index.quantile,
    }


def _compare(
    law: Law,
    text_tokens: np.ndarray,
    modal_tokens: np.ndarray,
    text: Scored,
    modal: Scored,
    text_rates: dict[str, Any],
    index: dict[str, Any],
    cap: float,
) -> dict[str, Any]:
    """One modal law beside the text law: rates, parts of the change at one scale, distances and bounds."""
    measured = measure_rates(modal)
    scale = _common_scale(text_rates["gmi_inputs"]["scale"], measured["gmi_inputs"]["scale"])
    message_scale = _common_scale(text_rates["gmi_messages"]["scale"], measured["gmi_messages"]["scale"])
    before, after = information_at(text, scale), information_at(modal, scale)
    messages_before, messages_after = information_at(text, message_scale), information_at(modal, message_scale)

    flat_text = text_tokens.reshape(len(text_tokens), -1)
    flat_modal = modal_tokens.reshape(len(modal_tokens), -1)
    matched = flat_text[modal.messages]
    moved = np.linalg.norm(flat_modal - matched, axis=1)
    # Given Y the text law is one point, so that exact transport is the mean displacement.
    given_y = distances.known(float(moved.mean()), given="(c, y)", space=SPACE)
    given_c = distances.w1_exact(flat_text, flat_modal, given="c", space=SPACE)
    farthest = distances.w_inf(flat_text, flat_modal)
    width = distances.diameter(flat_text, flat_modal)
    slope = sensitivity.LipschitzConstant(index["value"], index["kind"], SPACE)

    atoms = np.arange(len(text.scores))
    b1 = bounds.messages(message_scale, slope, given_y)
    b2 = bounds.inputs(scale, slope, given_y, given_c, width, w_inf=farthest)
    paper = bounds.paper(slope, width, given_y)
    b3 = bounds.score_shift(text.scores.T, modal.scores.T, atoms, modal.messages, scale=scale, over="inputs")
    b3_messages = bounds.score_shift(
        text.scores.T, modal.scores.T, atoms, modal.messages, scale=message_scale, over="messages"
    )
    repeated = text.scores[modal.messages]
    b6 = bounds.edit_bracket(repeated.T, modal.scores.T, modal.messages, scale=scale)
    caps = bounds.caps(scale, text.scores, modal.scores, cap)
    return {
        "law": law.name,
        "strength": law.strength,
        "unit": FAMILIES[law.name].unit,
        "draws": law.draws,
        "rates": measured,
        "change": {
            "scale": scale,
            "inputs": after["inputs"] - before["inputs"],
            "direct": after["direct"] - before["direct"],
            "competition": after["competition"] - before["competition"],
            "messages_scale": message_scale,
            "messages": messages_after["messages"] - messages_before["messages"],
        },
        "w1_given_y": float(given_y.value),
        "w1_given_c": float(given_c.value),
        "w_inf_given_c": float(farthest),
        "diameter": float(width),
        "bounds": {
            "b1_messages": float(b1.value),
            "b2_inputs": float(b2.value),
            "b2_terms": {name: float(value) for name, value in b2.terms.items()},
            "paper_log10": float(paper.terms["log10"]),
            "b3_inputs": float(b3.value),
            "b3_terms": {name: float(value) for name, value in b3.terms.items()},
            "b3_messages": float(b3_messages.value),
            "b6_lower": float(b6.lower),
            "b6_upper": float(b6.upper),
            "b6_first_order": float(b6.terms["first_order"]),
            "cap_change": float(caps["change"]),
            "cap_rate": float(caps["rate"]),
        },
        "bounds_kind": "b1, b2 and the paper's are indices: their Lipschitz constant is sampled",
    }


def _common_scale(before: float, after: float) -> float:
    """The scale at which two laws are compared: the larger finite s*, or 1 where neither is finite and positive.

    An infinite s* only says that the sample is separable; B0 asks for a stated S, and this is it.
    """
    finite = [scale for scale in (before, after) if math.isfinite(scale) and scale > 0]
    return max(finite, default=1.0)
