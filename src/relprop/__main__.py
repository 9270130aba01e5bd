"""`python -m relprop`: the command, where its script is not on the path."""

from relprop.cli import main

if __name__ == "__main__":
    main()
