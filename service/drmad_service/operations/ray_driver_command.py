"""`drmad ray-driver`: drives Ray for schedulers that are on no machine of its cluster."""

from __future__ import annotations

from typing import Annotated

import typer

from drmad_service import logs


def ray_driver(
    ray_address: Annotated[
        str, typer.Option(envvar="DRMAD_RAY_ADDRESS", help="Address of the Ray cluster.")
    ],
    listen: Annotated[
        str,
        typer.Option(
            envvar="DRMAD_RAY_DRIVER_LISTEN",
            help="Address and port at which schedulers connect, with the token of the cluster.",
        ),
    ] = "127.0.0.1:6390",
) -> None:
    """Drive Ray for the schedulers that --ray-driver connects to this process.

    It runs on a machine of the Ray cluster and holds no secret of the service but Ray's token, so
    that the schedulers, which do, can stay out of the reach of user code.
    """
    logs.configure(logs.from_environment())
    from drmad_service.ray_driver.listener import listen as drive

    drive(*host_and_port(listen, "--listen"), ray_address)


def host_and_port(address: str, option: str) -> tuple[str, int]:
    """
    Raises:
        BadParameter: the address is no host with a port.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or not 0 <= int(port) <= 65535:
        raise typer.BadParameter(f"{option} must be HOST:PORT, got {address!r}")
    return host, int(port)
