"""The one exception for a user's mistakes: the command line prints it as one line and exits 2."""


class UserError(ValueError):
    """The user's input (config, file, path) is wrong.

    The message is one line that names the file, the line where there is one, and what to do.
    """


class CheckFailed(Exception):
    """What was to be checked is not as it should be: one line for the user, exit status 1."""
