"""The real decoder: whether its numbers are those of a language model."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from gmijax.checkpoints import load_model, load_tokenizer

pytestmark = pytest.mark.slow

DICKENS = "It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of foolishness"
PARAGRAPH = (
    "Photosynthesis is the process by which plants use sunlight, water and carbon dioxide to make sugar and oxygen. It "
    "takes place in the chloroplasts, which contain a green pigment called chlorophyll. The sugar feeds the plant, and "
    "the oxygen is released into the air through small openings in the leaves."
)


@pytest.fixture(scope="module")
def decoder(smollm2):
    return load_model(smollm2), load_tokenizer(smollm2)


@nnx.jit
def padded_log_p(model, ids):
    return jax.nn.log_softmax(model(ids).logits[0])


def next_log_p(model, ids: np.ndarray) -> np.ndarray:
    """Log-probabilities after each of the ids, shape (length, vocabulary)."""
    padded = np.pad(ids, (0, 80 - len(ids)))  # one length, one compilation; nothing sees what stands to its right
    return np.asarray(padded_log_p(model, jnp.asarray(padded[None])))[: len(ids)]


def perplexity(decoder, text: str) -> float:
    model, tokenizer = decoder
    ids = np.asarray(tokenizer(text)["input_ids"])
    return float(np.exp(-np.take_along_axis(next_log_p(model, ids)[:-1], ids[1:, None], axis=-1).mean()))


def test_prose_is_likely_and_its_shuffled_words_are_not(decoder):
    words = PARAGRAPH.split()
    shuffled = " ".join(np.random.default_rng(0).permutation(words))
    likely, unlikely = perplexity(decoder, PARAGRAPH), perplexity(decoder, shuffled)
    assert 4 < likely < 12
    assert unlikely > 30 * likely


def test_perplexity_is_that_of_another_implementation(decoder):
    assert perplexity(decoder, DICKENS) == pytest.approx(7.9, abs=0.05)  # one that rotates in llama.cpp's order


def test_it_knows_a_capital(decoder):
    model, tokenizer = decoder
    ids = np.asarray(tokenizer("The capital of France is")["input_ids"])
    assert tokenizer.decode(int(next_log_p(model, ids)[-1].argmax())) == " Paris"


def test_it_answers_in_its_chat_template(decoder):
    model, tokenizer = decoder
    question = [{"role": "user", "content": "What is the capital of Italy? Answer in one word."}]
    prompt = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="np")
    ids = prompt["input_ids"][0]
    for _ in range(8):
        ids = np.append(ids, next_log_p(model, ids)[-1].argmax())
        if ids[-1] == tokenizer.eos_token_id:
            break
    answer = tokenizer.decode(ids[prompt["input_ids"].shape[1] :])
    assert "Rome" in answer
    assert answer.endswith("<|im_end|>")
