"""The command line `drmad`."""
