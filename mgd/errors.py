"""The exceptions that a command ends in without a traceback."""


class UserError(ValueError):
    """Bad input from the user; shown as one sentence without a traceback, exit status 2."""


def sentence(error: UserError) -> str:
    """The message; one that comes from a loader's worker is wrapped in that worker's traceback."""
    return str(error).rsplit("UserError: ", 1)[-1].strip()


class Stopped(Exception):
    """A run was asked to stop by a signal; its state is saved. Exit status 75: not done, try again."""
