import socket

import pytest

from knotjax import cli


def run(capsys, *arguments):
    """Exit status and what was told on stderr."""
    status = cli.main(["serve", *arguments])
    told = capsys.readouterr().err
    assert told.count("\n") == 1, told
    return status, told


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--host", "0.0.0.0"], "--token"),
        (["--host", "::"], "--token"),
        (["--host", "0.0.0.0", "--token", "short"], "--token"),
        (["--port", "70000"], "--port"),
        (["--sessions", "0"], "--sessions"),
        (["--max-seconds", "nan"], "--max-seconds"),
        (["--record", "/nowhere/at/all"], "--record"),
        (["--port", "0", "--weights", "/nowhere/model"], "/nowhere/model"),
        (["--share"], "--share"),
        (["--host", "not a host!", "--token", "x" * 16], "--host"),
    ],
)
def test_what_cannot_be_used_is_one_line(capsys, monkeypatch, arguments, word):
    monkeypatch.delenv("KNOTJAX_TOKEN", raising=False)
    status, told = run(capsys, *arguments)
    assert status == 2 and word in told


def test_a_taken_port_is_one_line(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        status, told = run(capsys, "--port", str(taken.getsockname()[1]))
    assert status == 2 and "--port" in told


def test_the_token_may_come_from_the_environment(capsys, monkeypatch):
    monkeypatch.setenv("KNOTJAX_TOKEN", "x" * 20)
    status, told = run(capsys, "--host", "0.0.0.0", "--record", "/nowhere/at/all")
    assert status == 2 and "--record" in told, "the token was enough"


def test_help_names_every_option(capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["serve", "--help"])
    told = capsys.readouterr().out
    assert caught.value.code == 0
    for option in ("--host", "--port", "--token", "--sessions", "--max-seconds", "--weights", "--method", "--record"):
        assert option in told
