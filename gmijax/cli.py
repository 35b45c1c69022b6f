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


def main() -> None:
    """Entry point: input that cannot be used ends with one message and exit code 2, without a traceback."""
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # it would advise to install PyTorch
    try:
        app()
    except (ValueError, OSError) as error:
        print(f"gmijax: {error}", file=sys.stderr)  # noqa: T201
        sys.exit(2)


if __name__ == "__main__":
    main()
