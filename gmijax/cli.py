"""The command line: `gmijax ...`, thin over the rooms. Heavy imports wait until a command runs."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    name="gmijax",
    help="How much of what an encoder knows can a fixed decoder use?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback()
def _root() -> None:
    """Generalized mutual information of mismatched decoders."""


@app.command()
def validate(
    quick: Annotated[
        bool, typer.Option("--quick", help="16 texts and three strengths a law, in about a minute.")
    ] = False,
    channels: Annotated[
        bool, typer.Option("--channels", help="Closed-form channels instead of a language model.")
    ] = False,
    decoder: Annotated[
        Path | None, typer.Option(help="Llama-family checkpoint folder or GGUF file. [default: packaged SmolLM2]")
    ] = None,
    sentences: Annotated[
        str | None, typer.Option(help="Text file, one sentence a line, or 'shipped'. [default: a small grammar]")
    ] = None,
    texts: Annotated[int, typer.Option(min=2, help="How many sentences of the file are used.")] = 12,
    seed: Annotated[int, typer.Option(min=0, help="Of all randomness.")] = 0,
    out: Annotated[Path, typer.Option(help="Folder for the table, the figure and the JSON.")] = Path(
        "results/validate"
    ),
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of the table.")] = False,
) -> None:
    """Shift a decoder's input, measure what it costs in GMI, and compare with the bounds."""
    from gmijax import validation

    settings = validation.Settings(quick=quick, decoder=decoder, sentences=sentences, texts=texts, seed=seed)
    validation.main(settings, channels=channels, out=out, as_json=json)


Seed = Annotated[int, typer.Option(min=0, help="Of all randomness.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of the table.")]
Labels = Annotated[str, typer.Argument(help="Integer labels (n,).")]
Groups = Annotated[str | None, typer.Option(help="E.g. the speaker of every row: kept whole in every split.")]
Method = Annotated[str, typer.Option(help="'path', as scikit-learn stops, or 'converged', the optimum.")]
ARRAYS = (
    "Arrays come from .npy, .npz or .safetensors files, of which FILE:NAME takes one of several, and from stores of "
    "hidden states: STORE:HOOK_POINT takes its states, STORE:LABEL a label."
)


@app.command(epilog=ARRAYS)
def distance(
    text: Annotated[str, typer.Argument(help="Rows of the text law, (n, d).")],
    modal: Annotated[str, typer.Argument(help="Rows of the modal law, (m, d).")],
    name: Annotated[
        list[str] | None, typer.Option(help="Which; may be repeated. [default: sliced_w1, mmd2, energy]")
    ] = None,
    projection: Annotated[int | None, typer.Option(min=1, help="Keep so many joint principal axes.")] = None,
    seed: Seed = 0,
    out: Annotated[Path, typer.Option(help="Folder for the table and the JSON.")] = Path("results/distance"),
    json: Json = False,
) -> None:
    """How far two laws of hidden states are, beside what no difference would give."""
    from gmijax import _commands

    outcome = _commands.compare_laws(text, modal, name or ["sliced_w1", "mmd2", "energy"], projection, seed)
    _publish(outcome, out / "distance", json)


@app.command(epilog=ARRAYS)
def modes(
    modal: Annotated[str, typer.Argument(help="Rows of the modal law, (n, d).")],
    text: Annotated[str, typer.Argument(help="Rows of the text law in the same space, (m, d).")],
    top: Annotated[int, typer.Option(min=1, help="Number of modes.")] = 100,
    threshold: Annotated[float, typer.Option(help="Of alpha: below it a mode is modality-specific.")] = 0.5,
    labels: Annotated[str | None, typer.Option(help="Labels of the modal rows: where do their classes differ?")] = None,
    out: Annotated[Path, typer.Option(help="Folder for the table, the figure and the JSON.")] = Path("results/modes"),
    json: Json = False,
) -> None:
    """Eigenmodes of the modal law, and how much of each the text law shares."""
    from gmijax import _commands

    _publish(_commands.align_modes(modal, text, top, threshold, labels), out / "modes", json)


@app.command(epilog=ARRAYS)
def probe(
    states: Annotated[str, typer.Argument(help="Hidden states (n, d) or (layers, n, d), or several arrays by name.")],
    labels: Labels,
    groups: Groups = None,
    method: Method = "path",
    penalty: Annotated[float, typer.Option(help="l2 penalty, scikit-learn's 1 / C.")] = 1.0,
    test_share: Annotated[float, typer.Option(help="Of the rows, or groups, in each of five splits.")] = 0.2,
    shuffles: Annotated[int, typer.Option(min=0, help="Probes of shuffled labels, for the selectivity.")] = 0,
    seed: Seed = 0,
    out: Annotated[Path, typer.Option(help="Folder for the table and the JSON.")] = Path("results/probe"),
    json: Json = False,
) -> None:
    """Linear probes: accuracy, macro-F1 and V-information on held-out rows."""
    from gmijax import _commands

    outcome = _commands.read_out(
        states,
        labels,
        groups=groups,
        method=method,
        penalty=penalty,
        test_share=test_share,
        shuffles=shuffles,
        seed=seed,
    )
    _publish(outcome, out / "probe", json)


@app.command(epilog=ARRAYS)
def ladder(
    scores: Annotated[str, typer.Argument(help="The decoder's log-probability of every label, (n, K), nats.")],
    states: Annotated[str, typer.Argument(help="Hidden states (n, d) or (layers, n, d), or several arrays by name.")],
    labels: Labels,
    groups: Groups = None,
    folds: Annotated[int, typer.Option(min=3, help="Of the cross-fits.")] = 5,
    method: Method = "path",
    title: Annotated[str, typer.Option(help="Of the table and the figure, e.g. the attribute's name.")] = "",
    seed: Seed = 0,
    out: Annotated[Path, typer.Option(help="Folder for the table, the figure and the JSON.")] = Path("results/ladder"),
    json: Json = False,
) -> None:
    """The accessibility ladder: how much of an attribute the decoder uses, and how much is there."""
    from gmijax import _commands

    _publish(_commands.climb(scores, states, labels, groups, folds, method, title, seed), out / "ladder", json)


def _publish(outcome, stem: Path, as_json: bool) -> None:
    from gmijax import report

    report.publish(outcome.result, outcome.tables, outcome.figure, stem, as_json=as_json)


@app.command()
def models(json: Annotated[bool, typer.Option("--json", help="Print JSON instead of the list.")] = False) -> None:
    """List the models: hook points, published checkpoints, and how far they are from their originals."""
    from gmijax.models import catalogue

    entries = catalogue()
    if json:
        from gmijax.report import to_json

        typer.echo(to_json([entry._asdict() for entry in entries]), nl=False)
        return
    for entry in entries:
        parity = ", ".join(f"{dtype} {share:.0e}" for dtype, share in entry.parity.items())
        typer.echo(f"{entry.name}\n  published    {', '.join(entry.published)}")
        typer.echo(f"  hook points  {entry.hook_points}\n  parity       {parity or 'not recorded'}")


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(help="Checkpoint folder as published, or GGUF file.")],
    out: Annotated[Path, typer.Argument(help="Folder for the Orbax checkpoint; must not exist.")],
    dtype: Annotated[str, typer.Option(help="Of the parameters: float32, bfloat16 or float16.")] = "bfloat16",
    text_model: Annotated[Path | None, typer.Option(help="Language model that is published apart.")] = None,
    encoder_model: Annotated[Path | None, typer.Option(help="Encoder that is published apart.")] = None,
) -> None:
    """Write a published checkpoint as Orbax, which loads sharded onto any number of devices."""
    if dtype not in ("float32", "bfloat16", "float16"):
        raise ValueError(f"--dtype {dtype} is not one of float32, bfloat16, float16")
    from gmijax import checkpoints

    checkpoints.convert(source, out, dtype=dtype, text_model=text_model, encoder_model=encoder_model)
    typer.echo(f"wrote {out}")


@app.command()
def extract(
    dataset: Annotated[str, typer.Argument(help="Layout of the data set: librispeech, coco, folder, jsonl, ...")],
    root: Annotated[Path, typer.Argument(help="Its folder as published, or the file of jsonl.")],
    model: Annotated[str, typer.Option(help="Checkpoint folder or file, or a packaged one: whisper-tiny.en, smollm2.")],
    out: Annotated[Path, typer.Option(help="Folder of the store; one that was begun is gone on with.")],
    hook_point: Annotated[
        list[str] | None, typer.Option(help="Which states; may be repeated. [default: the paper's]")
    ] = None,
    pooling: Annotated[str, typer.Option(help="mean, mean_all (with padding or prompt), last or none.")] = "mean",
    dtype: Annotated[str, typer.Option(help="On disk: float32, bfloat16 or float16.")] = "float32",
    compute_dtype: Annotated[str, typer.Option(help="Of the model: float32, bfloat16 or float16.")] = "float32",
    text: Annotated[
        bool, typer.Option("--text", help="Texts through the language model alone, in the place of the media.")
    ] = False,
    prompt: Annotated[str | None, typer.Option(help="What the user says, {} for the content.")] = None,
    window: Annotated[
        str, typer.Option(help="Seconds to which Whisper's input is filled up; 'full' (30), or 'clip', its own length.")
    ] = "full",
    max_seconds: Annotated[float | None, typer.Option(help="A longer recording is a failed sample.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Rows of every batch.")] = 16,
    bucket: Annotated[
        list[int] | None, typer.Option(help="Padded length, mel frames or tokens; may be repeated.")
    ] = None,
    option: Annotated[
        list[str] | None, typer.Option(help="NAME=VALUE for the reader, e.g. split=dev-clean; may be repeated.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only so many samples, the first ones.")] = None,
    process: Annotated[str, typer.Option(help="I/N: the I-th of N processes, counted from 0.")] = "0/1",
    strict: Annotated[bool, typer.Option("--strict", help="Stop at the first sample that cannot be used.")] = False,
    retry: Annotated[bool, typer.Option("--retry", help="Run chunks with failed samples again.")] = False,
    estimate: Annotated[
        bool, typer.Option("--estimate", help="Run one batch, say how long all would take, and stop.")
    ] = False,
    text_model: Annotated[Path | None, typer.Option(help="Language model that is published apart.")] = None,
    encoder_model: Annotated[Path | None, typer.Option(help="Encoder that is published apart.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of words.")] = False,
) -> None:
    """Run a data set through a model and keep the hidden states; a run that was stopped goes on where it was."""
    from gmijax import _extract_command

    request = _extract_command.Request(
        dataset=dataset,
        root=root,
        options=option or [],
        limit=limit,
        model=model,
        loading={
            "text": text,
            "prompt": prompt,
            "max_seconds": max_seconds,
            "dtype": compute_dtype,
            "text_model": text_model,
            "encoder_model": encoder_model,
        },
        window=window,
        out=out,
        running={
            "hook_points": hook_point,
            "pooling": pooling,
            "dtype": dtype,
            "batch_size": batch_size,
            "buckets": bucket,
        },
        process=process,
        strict=strict,
        retry=retry,
    )
    try:
        said = _extract_command.estimate(request, json) if estimate else _extract_command.extract(request, json)
    except KeyboardInterrupt:
        typer.echo(f"gmijax: stopped; what is committed stays in {out}, and the same command goes on", err=True)
        raise typer.Exit(130) from None
    typer.echo(said, nl=False)


store = typer.Typer(help="Hidden states on disk: see, check, join and export them.", no_args_is_help=True)
app.add_typer(store, name="store")
StorePath = Annotated[Path, typer.Argument(help="Folder of a store.")]


@store.command()
def info(
    path: Annotated[Path, typer.Argument(help="Folder of a store, or an .h5, .hdf5 or .npz file.")],
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of the list.")] = False,
) -> None:
    """Where the states come from, how many there are, and what is missing."""
    from gmijax import _store_commands

    typer.echo(_store_commands.describe(path, json), nl=False)


@store.command()
def verify(
    path: StorePath,
    forget: Annotated[
        bool, typer.Option("--forget", help="Take damaged chunks back, so that a resumed extraction writes them anew.")
    ] = False,
) -> None:
    """Read every committed chunk and compare it with its checksum; exit code 1 if any is damaged."""
    from gmijax.store import verify

    found = verify(path, forget=forget)
    for chunk, problem in found.damaged.items():
        typer.echo(f"chunk {chunk}: {problem}{'; taken back' if forget else ''}")
    typer.echo(f"{found.committed} of {found.chunks} chunks are committed and sound, {len(found.damaged)} are damaged")
    if not found.sound:
        raise typer.Exit(1)


@store.command()
def merge(
    paths: Annotated[list[Path], typer.Argument(help="Folders of stores of one run's settings.")],
    out: Annotated[Path, typer.Option(help="Folder of the new store.")],
) -> None:
    """Write one store with the samples of several, each once."""
    from gmijax.store import merge

    joined = merge(paths, out)
    typer.echo(f"{len(joined)} samples in {out}, {len(joined.failed)} failed, {len(joined.pending)} chunks pending")


@store.command()
def export(
    path: Annotated[Path, typer.Argument(help="Folder of a store, or an .h5, .hdf5 or .npz file.")],
    out: Annotated[Path, typer.Argument(help="A .npz or .safetensors file.")],
) -> None:
    """Write all states of a store into one file that any tool reads."""
    import gmijax.store

    typer.echo(f"wrote {gmijax.store.export(gmijax.store.open(path), out)}")


def main() -> None:
    """Entry point: input that cannot be used ends with one message and exit code 2, without a traceback."""
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # it would advise to install PyTorch
    try:
        app()
    except (ValueError, OSError, ImportError) as error:  # a package that only some need says how to install it
        print(f"gmijax: {error}", file=sys.stderr)  # noqa: T201
        sys.exit(2)


if __name__ == "__main__":
    main()
