"""``python -m lightning_lottery`` is the ``lightning-lottery`` command."""

from lightning_lottery.command.main import main

if __name__ == "__main__":
    main()
