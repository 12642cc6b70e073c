"""`outlast protos`: where the protos are that a service's own import."""

from pathlib import Path

import click

_FOLDER = Path(__file__).parents[1] / "protos"


@click.command()
def protos() -> None:
    """Print the folder of the protos that yours may import.

    It has those of google.api, google.longrunning, google.rpc and outlastapi.v1. Give it to
    protoc: -I "$(outlast protos)".
    """
    click.echo(_FOLDER)
