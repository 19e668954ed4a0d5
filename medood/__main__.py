"""``python -m medood``: the command line, for launchers such as torchrun."""

from medood.cli.main import main

if __name__ == "__main__":
    main()
