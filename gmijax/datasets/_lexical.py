"""The lexical label of a transcript or a caption."""

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

# Letters and digits of any script, with straight or curly apostrophes inside: "o'clock" is one word.
_WORD = re.compile(r"[^\W_]+(?:['\u2019][^\W_]+)*")


def lexical_labels(texts: Sequence[str | None], *, top: int = 50) -> list[str | None]:
    """The first word of each text that is among the most frequent words of all texts.

    This is the lexical label of arXiv:2602.23136. Where the paper leaves it open: words are counted at every
    occurrence, in these texts and no others, regardless of case; no word is too common to count; of words that are
    equally frequent, the alphabetically first are kept. So the labels depend on which texts are given together.

    Args:
      texts: the transcripts; None where a sample has none.
      top: how many words are kept.

    Returns:
      For each text the word in lower case, or None if it has none of them.

    Raises:
      ValueError: if `top` is not at least 1.
    """
    if top < 1:
        raise ValueError(f"top is {top}; keep at least one word")
    words = [_words(text) for text in texts]
    counts = Counter(word for line in words for word in line)
    kept = set(sorted(counts, key=lambda word: (-counts[word], word))[:top])
    return [next((word for word in line if word in kept), None) for line in words]


def _words(text: str | None) -> list[str]:
    return [word.replace("\u2019", "'") for word in _WORD.findall(unicodedata.normalize("NFC", text or "").lower())]
