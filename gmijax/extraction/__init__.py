"""From a data set to hidden states on disk: bucketed, overlapped, resumable.

What decides the states is in the store's manifest: the model and its weights, the hook points, the pooling, the prompt,
the preprocessing and the type. What only decides the speed is not, and may change when a run is taken up: the number
of processes, the batch size and the buckets. So a bucket must never change a state:

- A model that sees its padding gets one padded length, that of the original. Whisper is such a model: its frames see
  the silence up to 30 s. A shorter window is another input, asked for by name and recorded.
- A model that masks its padding gets buckets. Its attention is exact, but convolutions are not: the last frame of a
  clip with an odd number of mel frames is convolved with what follows it. Such clips are padded with silence to an even
  number, and the spectrogram is made for each clip's own length, 0 after it.
- A causal language model is padded on the right, where no token sees anything.

The batches of a chunk hold its samples alone. Whichever process writes a chunk, and after however many kills, it does
the same arithmetic, so that at one batch size and one list of buckets the store is the same bit for bit; others change
rounding.
"""

from gmijax.extraction._audio import AudioEncoder
from gmijax.extraction._composed import ImageModelEncoder, Qwen2AudioEncoder, UltravoxEncoder
from gmijax.extraction._encoder import Encoder, Identity, Piece, SampleError, Tokens
from gmijax.extraction._estimate import Estimate, estimate
from gmijax.extraction._extract import Extraction, ExtractionError, extract
from gmijax.extraction._image import ImageEncoder
from gmijax.extraction._load import load
from gmijax.extraction._text import TextEncoder

__all__ = [
    "AudioEncoder",
    "Encoder",
    "Estimate",
    "Extraction",
    "ExtractionError",
    "Identity",
    "ImageEncoder",
    "ImageModelEncoder",
    "Piece",
    "Qwen2AudioEncoder",
    "SampleError",
    "TextEncoder",
    "Tokens",
    "UltravoxEncoder",
    "estimate",
    "extract",
    "load",
]
