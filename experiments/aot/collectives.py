"""What devices tell each other in a program compiled for TPUs, read from its text.

A loop's body stands in the text once; here it counts as often as the loop runs. A collective that was spread over
several fusions, to run beside other work, stands there several times under one channel; here it counts once.
"""

import dataclasses
import math
import re
from collections import Counter

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "f64": 8, "s64": 8, "u64": 8}  # else 4

_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_LINE = re.compile(r"^\s+(?:ROOT )?%?[\w.\-]+ = (.+?) ([a-z\-]+)\(")
_ARRAY = re.compile(r"\b([a-z]+[0-9]+|pred)\[([0-9,]*)\]")
_CALLED = re.compile(r"\b(?:calls|to_apply|body|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_CONDITION = re.compile(r"\bcondition=%?([\w.\-]+)")
_TRIPS = re.compile(r'known_trip_count"?:\{"?n"?:"?(\d+)')
_LIMIT = re.compile(r"[su]32\[\]\S* constant\((\d+)\)")


@dataclasses.dataclass(frozen=True)
class Collective:
    """One of them."""

    kind: str
    dtype: str
    shape: tuple[int, ...]  # of what a device has afterwards (the largest part, if several arrays travel together)
    bytes: int  # of what a device has afterwards
    times: int  # how often it runs
    name: str  # of the operation that it belongs to


def _size(dtype: str, shape) -> int:
    return math.prod(shape) * BYTES.get(dtype, 4)


def _computations(text: str) -> tuple[dict[str, list[str]], str]:
    """Name -> lines, and the name of the first one that runs."""
    bodies, entry, name = {}, "", None
    for line in text.splitlines():
        head = _HEAD.match(line)
        if head:
            name = head[2]
            entry = name if head[1] else entry
            bodies[name] = []
        elif line.startswith("}"):
            name = None
        elif name:
            bodies[name].append(line)
    return bodies, entry


def _trips(line: str, bodies: dict[str, list[str]]) -> int:
    """How often a `while` runs its body: told by the compiler, or the one number that its condition compares with."""
    told = _TRIPS.search(line)
    if told:
        return int(told[1])
    condition = "\n".join(bodies[_CONDITION.search(line)[1]])
    limits = set(_LIMIT.findall(condition))
    if "direction=LT" not in condition or len(limits) != 1:
        raise ValueError(f"a loop whose trips are not known: {condition[:500]}")
    return int(limits.pop())


def _runs(bodies: dict[str, list[str]], entry: str) -> Counter:
    """How often every computation runs."""
    calls = {}  # caller -> [(callee, times)]
    for name, lines in bodies.items():
        calls[name] = []
        for line in lines:
            called = _CALLED.findall(line)
            for listed in _BRANCHES.findall(line):
                called += [part.strip().lstrip("%") for part in listed.split(",")]
            if called:
                times = _trips(line, bodies) if " while(" in line else 1
                calls[name] += [(callee, times) for callee in called]
    runs = Counter()

    def visit(name: str, times: int) -> None:
        runs[name] += times
        for callee, each in calls.get(name, ()):
            visit(callee, times * each)

    visit(entry, 1)
    return runs


def collectives(text: str) -> list[Collective]:
    """All collectives of a program, from `compiled.as_text()`."""
    bodies, entry = _computations(text)
    found, channels = [], set()
    for name, times in _runs(bodies, entry).items():
        for line in bodies.get(name, ()):
            match = _LINE.match(line)
            if not match or match[2].removesuffix("-start") not in KINDS:
                continue
            kind = match[2].removesuffix("-start")
            channel = re.search(r"channel_id=(\d+)", line)
            if channel and (kind, channel[1]) in channels:
                continue
            channels.add((kind, channel and channel[1]))
            arrays = [(d, tuple(int(n) for n in dims.split(",") if n)) for d, dims in _ARRAY.findall(match[1])]
            if match[2] in ("all-gather-start", "collective-permute-start"):  # what goes out, what comes in, and more
                arrays = arrays[len(arrays) // 2 :] if kind == "all-gather" else arrays[1:2]
            dtype, shape = max(arrays, key=lambda array: _size(*array))
            source = re.search(r'op_name="([^"]*)"', line)
            size = sum(_size(*array) for array in arrays)
            found.append(Collective(kind, dtype, shape, size, times, source[1] if source else ""))
    return found


def summed(found: list[Collective]) -> dict:
    """Kind -> [in the program, runs, GiB that a device holds afterwards, of all runs together]."""
    table = {}
    for kind in KINDS:
        own = [one for one in found if one.kind == kind]
        if own:
            held = sum(one.bytes * one.times for one in own) / 2**30
            table[kind] = [len(own), sum(one.times for one in own), round(held, 3)]
    return table


def gathers_of(found: list[Collective], tokens: int) -> list[Collective]:
    """All-gathers of anything that has tokens, a cache or what is computed: a dimension is a whole number of frames.

    Args:
      tokens: of one frame; a number of which no width of the model is a multiple.
    """
    return [one for one in found if one.kind == "all-gather" and any(n and n % tokens == 0 for n in one.shape)]
