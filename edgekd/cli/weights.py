"""Commands of `edgekd weights`: published weights."""

from typing import Annotated

import typer

from edgekd.cli.root import AcceptLicence, Json, licence_accepted, say

app = typer.Typer()

weights_app = typer.Typer(no_args_is_help=True, help="List, download and find published weights.")
app.add_typer(weights_app, name="weights")

Name = Annotated[str, typer.Argument(help="A name of 'edgekd weights list'.")]


@weights_app.command("list", epilog="Example: edgekd weights list")
def weights_list(as_json: Json = False) -> None:
    """List published weights and where they are on this machine.

    A recipe names them by name, and the folder of EDGEKD_WEIGHTS is searched before that of the downloads.
    """
    import msgspec

    from edgekd.data import weights
    from edgekd.text import columns

    places = {name: weights.place(name) for name in weights.table()}
    if as_json:
        rows = [
            {"name": name, **msgspec.to_builtins(known), "path": None if places[name] is None else str(places[name])}
            for name, known in weights.table().items()
        ]
        print(msgspec.json.encode(rows).decode())
        return
    table = [
        (name, f"{known.bytes:,}" if known.bytes else "", known.licence, known.use, str(places[name] or "not here"))
        for name, known in weights.table().items()
    ]
    print("\n".join(columns(("name", "bytes", "licence", "network", "file"), table, left=5)))


@weights_app.command("fetch", epilog="Example: edgekd weights fetch mn04-as --accept-licence")
def weights_fetch(
    name: Name,
    accept_licence: AcceptLicence = False,
    unverified: Annotated[
        bool, typer.Option("--unverified", help="Also download a file whose checksum is not known.")
    ] = False,
) -> None:
    """Download published weights.

    They go into the cache folder, ~/.cache/edgekd/weights. The same command goes on where it was stopped.
    """
    from edgekd.data.fetch_weights import fetch

    print(fetch(name, lambda line: licence_accepted(line, accept_licence), say, unverified=unverified))


@weights_app.command("path", epilog="Example: edgekd weights path mn04-as")
def weights_path(name: Name) -> None:
    """Print the file of published weights, after checking it."""
    from edgekd.data import weights

    weights.row(name)
    print(weights.find(name))
