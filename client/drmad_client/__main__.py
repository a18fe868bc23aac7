"""`python -m drmad_client` is the command `drmad`."""

from drmad_client.cli import main

main()
