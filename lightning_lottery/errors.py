"""The package's one exception."""


class LotteryError(ValueError):
    """A bad argument, file, configuration or failed write; its text says what was asked, found, and what to do.

    The command prints it as one sentence and exits with 2; every other exception keeps its traceback.
    """
