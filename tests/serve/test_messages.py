import itertools
import json

import pytest

from knotjax.serve.messages import Refusal, parse
from knotjax.serve.states import MAY_SEND, NEXT, Life, State

GOOD = [
    {"type": "hello"},
    {"type": "hello", "token": "x" * 200},
    {"type": "portrait", "bytes": 20 * 2**20},
    {"type": "offer", "sdp": "v=0"},
    {"type": "start", "seed": 2**32 - 1, "emotion": "happy", "action": "nod"},
    {"type": "sound", "rate": 8000},
    {"type": "end"},
    {"type": "interrupt"},
    {"type": "switch", "emotion": "sad", "strength": 2, "ramp": 0.5},
    {"type": "got", "fragment": 0},
    {"type": "bye"},
]
BAD = {
    "": "message",
    "{": "message",
    "null": "message",
    "[]": "message",
    "7": "message",
    "{}": "message",
    '{"type": "jump"}': "jump",
    '{"type": 1}': "message",
    '{"type": "hello", "token": "' + "x" * 201 + '"}': "token",
    '{"type": "hello", "extra": 1}': "extra",
    '{"type": "portrait"}': "bytes",
    '{"type": "portrait", "bytes": 0}': "bytes",
    '{"type": "portrait", "bytes": 20971521}': "bytes",
    '{"type": "portrait", "bytes": "7"}': "bytes",
    '{"type": "portrait", "bytes": 7.5}': "bytes",
    '{"type": "portrait", "bytes": true}': "bytes",
    '{"type": "start", "seed": -1}': "seed",
    '{"type": "start", "seed": 1e999}': "seed",
    '{"type": "start", "emotion": "../../etc/passwd"}': "emotion",
    '{"type": "start", "emotion": "happy\\u0000"}': "emotion",
    '{"type": "start", "image": "/etc/passwd"}': "image",
    '{"type": "sound"}': "rate",
    '{"type": "sound", "rate": 7999}': "rate",
    '{"type": "sound", "rate": 192001}': "rate",
    '{"type": "sound", "rate": NaN}': "rate",
    '{"type": "switch", "strength": NaN}': "strength",
    '{"type": "switch", "strength": Infinity}': "strength",
    '{"type": "switch", "strength": 4.01}': "strength",
    '{"type": "switch", "ramp": -0.1}': "ramp",
    '{"type": "got", "fragment": -1}': "fragment",
    '{"type": "got", "fragment": ' + "9" * 400 + "}": "fragment",
    "[" * 2000: "message",
    '{"type":' * 500: "message",
    '{"type": "end", "a": "' + "x" * 17_000 + '"}': "characters",
    '{"type": "end"}{"type": "end"}': "message",
    "\ud800": "message",
}


@pytest.mark.parametrize("message", GOOD, ids=lambda m: m["type"])
def test_what_fits_is_read(message):
    assert message.items() <= parse(json.dumps(message)).model_dump().items()


@pytest.mark.parametrize("text", BAD)
def test_what_does_not_fit_is_refused_by_name_in_one_line(text):
    with pytest.raises(Refusal) as caught:
        parse(text)
    told = str(caught.value)
    assert caught.value.code == "bad_message" and BAD[text] in told and "\n" not in told and len(told) < 400


def test_only_the_steps_of_the_table_are_possible():
    for before, after in itertools.product(State, State):
        life = Life()
        life.state = before
        if after in NEXT[before]:
            life.become(after)
            assert life.state is after
        else:
            with pytest.raises(RuntimeError, match=before.value):
                life.become(after)


def test_only_what_the_table_allows_may_be_sent():
    kinds = {message["type"] for message in GOOD} | {"sound data", "picture data"}
    assert set().union(*MAY_SEND.values()) == kinds
    for state, kind in itertools.product(State, kinds):
        life = Life()
        life.state = state
        if kind in MAY_SEND[state]:
            life.check(kind)
        else:
            with pytest.raises(Refusal, match=state.value):
                life.check(kind)
