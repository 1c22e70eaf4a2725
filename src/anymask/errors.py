"""The base of all errors that a user can mend; the command line prints them without a traceback."""


class AnymaskError(ValueError):
    """Something that was asked for cannot be done; the message names the mend."""
