"""The exceptions that a command ends in without a traceback."""


class UserError(ValueError):
    """Bad input from the user; shown as one sentence without a traceback, exit status 2."""


class Stopped(Exception):
    """A run was asked to stop by a signal; its state is saved. Exit status 75: not done, try again."""
