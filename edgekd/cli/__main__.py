"""`python -m edgekd.cli`."""

from edgekd.cli.entry import main

if __name__ == "__main__":
    main()
