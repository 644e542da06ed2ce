"""The control messages that a client may send: one JSON object each, with the field `type`."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from knotjax.drive import ACTIONS, EMOTIONS
from knotjax.errors import InputError
from knotjax.media.pictures import MAX_BYTES
from knotjax.media.samples import MAX_RATE, MIN_RATE
from knotjax.serve.limits import TEXT_BYTES

Emotion = Literal[*EMOTIONS]
Action = Literal[*ACTIONS]


class Refusal(InputError):
    """Something a client sent cannot be used; the session goes on.

    Attributes:
      code: for programs, such as `bad_message`.
    """

    def __init__(self, code: str, text: str):
        super().__init__(text)
        self.code = code


class Message(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)


class Hello(Message):
    """The first message."""

    type: Literal["hello"]
    token: str = Field("", max_length=200)


class Portrait(Message):
    """The next binary messages are a picture file of so many bytes."""

    type: Literal["portrait"]
    bytes: int = Field(ge=1, le=MAX_BYTES)


class Offer(Message):
    """The stream is to come as WebRTC: the client's description of the connection."""

    type: Literal["offer"]
    sdp: str = Field(min_length=1)


class Start(Message):
    """Begin to stream, with the portrait uploaded last or the bundled one."""

    type: Literal["start"]
    seed: int = Field(0, ge=0, lt=2**32)
    emotion: Emotion | None = None
    action: Action | None = None


class Sound(Message):
    """From here on binary messages are mono 16-bit little-endian samples at this rate."""

    type: Literal["sound"]
    rate: int = Field(ge=MIN_RATE, le=MAX_RATE)


class End(Message):
    """The sound pauses: what was pushed is spoken to its end."""

    type: Literal["end"]


class Interrupt(Message):
    """Forget the sound that is not spoken yet."""

    type: Literal["interrupt"]


class Switch(Message):
    """Other words or another strength of motion, at once or fading in over `ramp` seconds."""

    type: Literal["switch"]
    emotion: Emotion | None = None
    action: Action | None = None
    strength: float | None = Field(None, ge=0.0, le=4.0)
    ramp: float = Field(0.0, ge=0.0, le=10.0)


class Got(Message):
    """The fragment with this number has arrived."""

    type: Literal["got"]
    fragment: int = Field(ge=0, lt=2**53)


class Bye(Message):
    """End the session in good order."""

    type: Literal["bye"]


_ANY = TypeAdapter(
    Annotated[
        Hello | Portrait | Offer | Start | Sound | End | Interrupt | Switch | Got | Bye,
        Field(discriminator="type"),
    ]
)


def parse(text: str) -> Message:
    """Read a control message.

    Raises:
      Refusal: it is too long, no JSON, of no known type, or a field is missing, unknown or out of range.
    """
    if len(text) > TEXT_BYTES:
        raise Refusal("bad_message", f"control message of {len(text)} characters: send at most {TEXT_BYTES}")
    try:
        return _ANY.validate_json(text)
    except (ValidationError, RecursionError) as error:
        if isinstance(error, RecursionError):
            raise Refusal("bad_message", "control message is nested too deeply: send one flat object") from None
        fault = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(str(part)[:40] for part in fault["loc"]) or "message"
        raise Refusal("bad_message", f"control message, {where}: {fault['msg'][:200]}") from None
