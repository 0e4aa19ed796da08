"""`python -m kserve`: the same as the command `kserve`."""

from kserve.cli import main

main()
