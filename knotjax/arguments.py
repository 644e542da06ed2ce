"""The parser of every command: a wrong argument is one line, like any other input that cannot be used."""

import argparse

from knotjax.errors import InputError


class Parser(argparse.ArgumentParser):
    """An argument parser that raises `InputError`."""

    def error(self, message: str):
        raise InputError(f"{message}: see '{self.prog} --help'")
