"""The one exception for input that cannot be used."""


class InputError(ValueError):
    """Something the user gave cannot be used. The message is one line: the thing, the reason, the cure."""
