"""The one exception that means: the user can mend this; show its sentence, not a traceback."""


class UserError(ValueError):
    """Bad input from the user; shown as one sentence without a traceback, exit status 2."""
