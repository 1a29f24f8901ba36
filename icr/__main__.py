"""`python -m icr`."""

from icr.commands.main import main

main()
