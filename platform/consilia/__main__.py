"""`python -m consilia` is the command line."""

from consilia.cli import main

main()
