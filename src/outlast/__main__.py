"""Run the `outlast` command as `python -m outlast`."""

from outlast.cli.main import main

if __name__ == "__main__":
    main()
