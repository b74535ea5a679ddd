"""``python -m mpitile``."""

from mpitile.cli.main import main

if __name__ == "__main__":
    main()
