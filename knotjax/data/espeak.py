"""Text to sound with phoneme times, by the espeak-ng library through ctypes.

The library is looked for on first use, so everything else in the package works without it.
"""

import _ctypes
import ctypes
import os
import threading

import numpy as np

from knotjax.errors import InputError

_LIBRARIES = ("libespeak-ng.so.1", "libespeak-ng.so", "libespeak-ng.dylib")
_SYNCHRONOUS = 2
_PHONEME_EVENTS_AS_IPA_NO_EXIT = 1 | 2 | 0x8000
_RATE, _PITCH = 1, 3
_UTF8 = 1
_PHONEME = 7
# Files rather than names: a name is only known once the library has listed its voices.
_ACCENTS = {
    "en-gb": "gmw/en",
    "en-us": "gmw/en-US",
    "en-029": "gmw/en-029",
    "en-gb-scotland": "gmw/en-GB-scotland",
    "en-gb-x-rp": "gmw/en-GB-x-rp",
    "en-gb-x-gbclan": "gmw/en-GB-x-gbclan",
    "en-gb-x-gbcwmd": "gmw/en-GB-x-gbcwmd",
}
_ONE_AT_A_TIME = threading.Lock()  # the library keeps its state in globals


class _Id(ctypes.Union):
    _fields_ = (("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8))


class _Event(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _Id),
    )


_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


def _load() -> tuple[ctypes.CDLL, bool]:
    """The library, and whether some other part of this process had it loaded already."""
    for name in _LIBRARIES:
        try:
            library = ctypes.CDLL(name, mode=os.RTLD_NOW | os.RTLD_NOLOAD)
            return library, True
        except OSError:
            pass
        try:
            return ctypes.CDLL(name), False
        except OSError:
            continue
    raise InputError(
        "speech synthesis needs the espeak-ng library, which was not found: install the Debian package espeak-ng "
        "(apt install espeak-ng), or give a recording instead"
    )


def available() -> bool:
    """Whether the espeak-ng library can be loaded."""
    with _ONE_AT_A_TIME:
        try:
            library, _ = _load()
        except InputError:
            return False
        _ctypes.dlclose(library._handle)
        return True


def _voice_file(library: ctypes.CDLL, voice: str) -> bytes:
    accent, _, variant = voice.partition("+")
    if variant:
        data = ctypes.c_char_p()
        library.espeak_Info(ctypes.byref(data))
        # An unknown variant would be passed over in silence.
        if not os.path.isfile(os.path.join(os.fsdecode(data.value), "voices", "!v", variant)):
            raise InputError(f"voice {voice!r} has no variant {variant!r} in espeak-ng: choose one such as +m3 or +f2")
    return (_ACCENTS.get(accent, accent) + ("+" + variant if variant else "")).encode()


def speak(text: str, voice: str, rate: int, pitch: int) -> tuple[np.ndarray, int, list[tuple[int, str]]]:
    """Say `text`; the same arguments give the same samples, unless other code in the process uses espeak-ng too.

    Args:
      text: what to say.
      voice: accent, "+", variant, such as "en-us+m3".
      rate: words per minute, 80..450.
      pitch: 0..100.

    Returns:
      The sound as int16 [n], its samples per second, and (sample number, IPA string) where each phoneme starts; an
      empty string is a pause.

    Raises:
      InputError: the library is missing, it does not know the voice, or a number is out of range.
    """
    if not 80 <= rate <= 450:
        raise InputError(f"rate {rate} is outside what espeak-ng can speak: give 80..450 words per minute")
    if not 0 <= pitch <= 100:
        raise InputError(f"pitch {pitch} is outside what espeak-ng can speak: give 0..100")
    with _ONE_AT_A_TIME:
        library, shared = _load()
        try:
            return _speak(library, text, voice, rate, pitch)
        finally:
            # The vibrato's phase lives on between calls. Unloading is the only way to start it afresh, and takes a few
            # milliseconds. A library that is terminated but stays loaded never answers again, so one that others
            # hold is left running.
            if not shared:
                library.espeak_Terminate()
                _ctypes.dlclose(library._handle)


def _speak(library, text, voice, rate, pitch):
    hertz = library.espeak_Initialize(_SYNCHRONOUS, 200, None, _PHONEME_EVENTS_AS_IPA_NO_EXIT)
    if hertz <= 0:
        raise InputError("espeak-ng found no voice data: install the Debian package espeak-ng-data")
    chunks, phonemes = [], []

    @_CALLBACK
    def receive(samples, count, events):
        if samples and count > 0:
            chunks.append(np.ctypeslib.as_array(samples, (count,)).copy())
        number = 0
        while events[number].type:
            if events[number].type == _PHONEME:
                # Long strings are cut to eight bytes, possibly inside a character.
                ipa = events[number].id.string.decode("utf-8", "ignore")
                phonemes.append((events[number].sample, ipa))
            number += 1
        return 0

    library.espeak_SetSynthCallback(receive)
    if library.espeak_SetVoiceByName(_voice_file(library, voice)):
        raise InputError(f"voice {voice!r} is unknown to espeak-ng: choose one that `espeak-ng --voices=en` lists")
    library.espeak_SetParameter(_RATE, int(rate), 0)
    library.espeak_SetParameter(_PITCH, int(pitch), 0)
    ctypes.CDLL(None).srand(0)  # the breath noise of some variants is drawn from the C library
    data = text.encode()
    library.espeak_Synth(data, ctypes.c_size_t(len(data) + 1), 0, 1, 0, _UTF8, None, None)
    library.espeak_Synchronize()
    wave = np.concatenate(chunks) if chunks else np.zeros(0, np.int16)
    return wave, hertz, phonemes
