"""Commands of `edgekd data`: clip stores."""

from pathlib import Path
from typing import Annotated

import typer

from edgekd.cli.root import AcceptLicence, Json, licence_accepted, say
from edgekd.data.sets.metadata import DATA_SETS

app = typer.Typer()

data_app = typer.Typer(no_args_is_help=True, help="Prepare, synthesise and inspect clip stores.")
app.add_typer(data_app, name="data")


@data_app.command("prepare", epilog="Example: edgekd data prepare folder audio --out own")
def data_prepare(
    dataset: Annotated[str, typer.Argument(help=f"One of {', '.join(DATA_SETS)}.")],
    path: Annotated[Path, typer.Argument(help="Folder of the data set as published; for folder also a CSV file.")],
    out: Annotated[Path, typer.Option("--out", help="The store to make.")],
    sample_rate: Annotated[int, typer.Option(help="Hz of the store, 1000 to 768000.")] = 16000,
    channels: Annotated[int, typer.Option(help="Channels of the store.")] = 1,
    csv: Annotated[
        Path | None, typer.Option(help="folder: a table filename,label[,split,group,recorder,parent].")
    ] = None,
    test_fraction: Annotated[
        float | None, typer.Option(help="folder without splits, deepship: share of each label for test, 0.2.")
    ] = None,
    licence: Annotated[str | None, typer.Option(help="folder: licence of the audio, kept in every model file.")] = None,
    subset: Annotated[
        int | None, typer.Option(help="tau22: 5, 10, 25 or 50 percent of the training clips (DCASE 2024).")
    ] = None,
    fold: Annotated[
        int | None, typer.Option(help="tut18: number of the lists in evaluation_setup; 1 is published.")
    ] = None,
    segment: Annotated[
        float | None, typer.Option(help="deepship: seconds of each clip that recordings are cut into, 5.")
    ] = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave out clips that are missing or cannot be used instead of refusing.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace a store that exists.")] = False,
) -> None:
    """Decode a data set once into a clip store.

    The same command goes on where it was stopped.
    """
    from edgekd.data import info, prepare

    prepared = prepare.prepare(
        dataset,
        path,
        out,
        sample_rate=sample_rate,
        channels=channels,
        table=csv,
        test_fraction=test_fraction,
        licence=licence,
        subset=subset,
        fold=fold,
        segment=segment,
        skip_bad=skip_bad,
        force=force,
        log=say,
    )
    for note in prepared.notes:
        say(f"note: {note}")
    print(info.report_text(info.describe(prepared.store)))


@data_app.command("synth", epilog="Example: edgekd data synth --out store --clips 200")
def data_synth(
    out: Annotated[Path, typer.Option("--out", help="The store to make.")],
    clips: Annotated[int, typer.Option(help="Clips in all, over ten scenes.")] = 600,
    seconds: Annotated[float, typer.Option(help="Length of each clip.")] = 3.0,
    seed: Annotated[int, typer.Option(help="Another seed is another data set.")] = 0,
    sample_rate: Annotated[int, typer.Option(help="Hz of the store, 1000 to 768000.")] = 16000,
    force: Annotated[bool, typer.Option("--force", help="Replace a store that exists.")] = False,
) -> None:
    """Make a clip store of synthetic scenes.

    It serves to try edgekd out; the scenes are no recordings.
    """
    from edgekd.data import info, prepare

    made = prepare.synth(out, clips=clips, seconds=seconds, seed=seed, sample_rate=sample_rate, force=force)
    for note in made.notes:
        say(f"note: {note}")
    print(info.report_text(info.describe(made.store)))


@data_app.command("fetch", epilog="Example: edgekd data fetch tau22 --out tau22 --accept-licence")
def data_fetch(
    dataset: Annotated[
        str, typer.Argument(help=f"One of {', '.join(name for name, known in DATA_SETS.items() if known.free)}.")
    ],
    out: Annotated[Path, typer.Option("--out", help="The folder to fill.")],
    accept_licence: AcceptLicence = False,
) -> None:
    """Download and unpack a data set.

    Works for data sets that their owners give to anybody. The same command goes on where it was stopped.
    """
    from edgekd.data.fetch import fetch

    folder = fetch(dataset, out, lambda line: licence_accepted(line, accept_licence), say)
    print(f"{folder}: prepare it with: edgekd data prepare {dataset} {folder} --out STORE")


@data_app.command("info", epilog="Example: edgekd data info store")
def data_info(
    store: Annotated[Path, typer.Argument(help="A clip store.")],
    as_json: Json = False,
) -> None:
    """Check a clip store and show what it holds."""
    import msgspec

    from edgekd.data import info

    report = info.info(store)
    print(msgspec.json.encode(report).decode() if as_json else info.report_text(report))
