"""``python -m nodewright`` is the command ``nodewright``."""

from nodewright.cli.main import main

if __name__ == "__main__":
    main()
