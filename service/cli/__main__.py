"""Runs the command line as `python -m jobledger.service.cli`."""

from jobledger.service.cli.main import main

main()
