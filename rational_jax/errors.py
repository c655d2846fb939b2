"""The exceptions that are no bugs: what the user can mend, and the end that the system asks for."""


class UserError(Exception):
    """Something the user can mend: a wrong setting, a missing or damaged file, other inputs than before.

    The message is one clear line that names the place (file, line, key) and says what to do. The command prints it
    without a traceback and exits with 2; every other exception is a bug and keeps its traceback.
    """


class Unreachable(UserError):
    """A store or the Hub that could not be reached for a reason that passes: it is overloaded, a connection was cut.

    The command prints the message and exits with 75 (EX_TEMPFAIL), on which a launcher starts it again.
    """


class Preempted(Exception):
    """The system takes the machine away, and what was done is saved: the same command continues elsewhere.

    The command prints the message and exits with 75 (EX_TEMPFAIL), on which a launcher starts it again.
    """
