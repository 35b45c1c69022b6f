"""The texts whose law is known: a small grammar, or the lines of a file."""

import itertools
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from typing import NamedTuple

import numpy as np

# The slots come last and the text ends with one: in a trie of all texts little is then run twice.
TEMPLATE = "The {} {} {} {}"
# More fillers than are used: those of one token length are chosen once the tokenizer is known.
SLOTS = (
    ("old", "young", "tall", "rich", "poor", "good", "new", "great"),
    ("king", "man", "woman", "girl", "boy", "doctor", "teacher", "student"),
    ("lived", "worked", "waited", "walked", "stood", "stayed"),
    ("alone", "there", "here", "together", "outside", "again"),
)
SHIPPED = "sentences.txt"


class Texts(NamedTuple):
    """Texts with their token ids; `known_law` says whether they are all that can occur, equally often."""

    texts: tuple[str, ...]
    ids: tuple[tuple[int, ...], ...]
    known_law: bool


def grammar_texts(encode: Callable[[str], Sequence[int]], choices: Sequence[int]) -> Texts:
    """Every sentence of a four-slot grammar, all of one token length and equally likely.

    Args:
      encode: text to token ids, without special tokens.
      choices: how many fillers each slot offers; the number of texts is their product.

    Raises:
      ValueError: if the tokenizer gives no choice of fillers for which all texts have the same length.
    """
    fillers = []
    for words, count in zip(SLOTS, choices, strict=True):
        by_length: dict[int, list[str]] = {}
        for word in words:
            by_length.setdefault(len(encode(" " + word)), []).append(word)
        enough = [group for _, group in sorted(by_length.items()) if len(group) >= count]
        if not enough:
            raise ValueError(
                f"the tokenizer splits the fillers {', '.join(words)} so unevenly that no {count} share a length; "
                "give your own texts with --sentences"
            )
        fillers.append(enough[0][:count])
    texts = tuple(TEMPLATE.format(*words) for words in itertools.product(*fillers))
    ids = tuple(tuple(encode(text)) for text in texts)
    if len({len(tokens) for tokens in ids}) > 1:
        raise ValueError("the tokenizer gives the grammar's texts different lengths; use --sentences")
    return Texts(texts, ids, known_law=True)


def file_texts(path: Path | None, encode: Callable[[str], Sequence[int]], limit: int) -> Texts:
    """Lines of a text file (the shipped one if `path` is None), evenly spaced through it.

    Blank lines and lines that begin with # are skipped, repeated ones kept once.

    Raises:
      ValueError: if the file cannot be read as UTF-8 or holds fewer than two sentences.
    """
    name = str(path) if path else f"the shipped {SHIPPED}"
    try:
        raw = path.read_text("utf-8") if path else (resources.files("gmijax") / "data" / SHIPPED).read_text("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{name} is not UTF-8 text: {error}") from None
    lines = dict.fromkeys(line.strip() for line in raw.splitlines())
    sentences = [line for line in lines if line and not line.startswith("#")]
    if len(sentences) < 2:
        raise ValueError(f"{name} holds {len(sentences)} sentences; a rate needs at least 2, one a line")
    chosen = np.unique(np.linspace(0, len(sentences) - 1, min(limit, len(sentences))).round().astype(int))
    texts = tuple(sentences[k] for k in chosen)
    return Texts(texts, tuple(tuple(encode(text)) for text in texts), known_law=False)
