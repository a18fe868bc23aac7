"""`python -m drmad_client` is the command `drmad`."""

from drmad_client.cli.main import main

main()
