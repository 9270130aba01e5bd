"""`python -m relprop.cli` is the `relprop` command."""

from relprop.cli import main

main()
