"""Extraction from files to a store, beside the model alone and beside one clip after the other, as in the paper's code.

The clips are noise: what they hold changes no time. One core has nothing to overlap with; the ratio to the model alone
says what reading, preparing, batching and writing cost on top of it.

Run: python benchmarks/extraction.py [--clips N] [--window SECONDS]
"""

from _bench import measure, once, report, row  # first: it pins the process

import argparse
import tempfile
from pathlib import Path

import h5py
import jax
import numpy as np
import soundfile

from gmijax import checkpoints, datasets, extraction, models, store
from gmijax.preprocessing import log_mel, pad_waves

BATCH = 16


def write_clips(folder: Path, clips: int, window: float) -> None:
    """Of a quarter of the window to all of it."""
    rng = np.random.default_rng(0)
    for k in range(clips):
        samples = int(16000 * window * rng.uniform(0.25, 1))
        soundfile.write(folder / f"{k:05}.flac", 0.1 * rng.standard_normal(samples), 16000)


def one_by_one(dataset, model, path: Path, window: float) -> None:
    """Read, encode, average and write a clip; the file is opened anew for each."""
    with h5py.File(path, "w") as file:
        file.create_dataset("encoder_output", (len(dataset), model.config.d_model), np.float32)
    for k, sample in enumerate(dataset):
        padded, frames = pad_waves([sample.audio()], samples=int(window * 16000))
        states = np.asarray(model(log_mel(padded))["encoder_output"][0])
        with h5py.File(path, "a") as file:
            file["encoder_output"][k] = states[: -(-int(frames[0]) // 2)].mean(axis=0)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--clips", type=int, default=64)
    parser.add_argument("--window", type=float, default=5.0)
    clips, window = (arguments := parser.parse_args()).clips, arguments.window
    encoder = extraction.load("whisper-tiny.en", window=window)
    model = models.load(checkpoints.bundled_speech_encoder())
    with tempfile.TemporaryDirectory() as name:
        folder, count = Path(name), iter(range(100))
        (folder / "clips").mkdir()
        write_clips(folder / "clips", clips, window)
        dataset = datasets.open("folder", folder / "clips")
        ours = measure(lambda: extraction.extract(dataset, encoder, folder / f"s{next(count)}", batch_size=BATCH), 3)
        pieces = [encoder.read(sample)[0] for sample in dataset]
        batches = [
            encoder.batch(pieces[k : k + BATCH], BATCH, encoder.lengths[-1]) for k in range(0, len(pieces), BATCH)
        ]
        options = {"hook_points": ("encoder_output",), "pooling": "mean"}
        alone = measure(lambda: [jax.block_until_ready(encoder.pooled(batch, **options)) for batch in batches], 3)
        few = dataset[: max(1, clips // 4)]
        one_by_one(few[:1], model, folder / "warm.h5", window)
        _, each = once(lambda: one_by_one(few, model, folder / "rows.h5", window))
        found = store.open(folder / "s0").numpy("encoder_output", slice(len(few)))
        with h5py.File(folder / "rows.h5") as file:
            error = float(np.abs(found - file["encoder_output"][:]).max())
    what, types = f"Whisper tiny.en, {clips} clips of up to {window:g} s, files to store", "float32 / float32"
    mark = f"{len(few)} of {clips} clips measured"
    table = [
        row(what, ours, "the model alone, batches prepared", alone.seconds, 0.0, types=types),
        row(what, ours, "one clip after the other, h5py reopened", each * clips / len(few), error, mark, types),
    ]
    report(f"Extraction, {clips / ours.seconds:.3g} clips a second", table, "benchmark_extraction.json")


if __name__ == "__main__":
    main()
