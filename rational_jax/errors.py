"""The one exception that is meant for the person at the keyboard."""


class UserError(Exception):
    """Something the user can mend: a wrong setting, a missing or damaged file, other inputs than before.

    The message is one clear line that names the place (file, line, key) and says what to do. The command prints it
    without a traceback and exits with 2; every other exception is a bug and keeps its traceback.
    """
