"""Manifests: JSON that ends in a digest of itself, so that no byte of it can change unnoticed.

They guard against damage and mix-ups, not against a forger: whoever can write the folder can write a new one.
"""

import hashlib
import json


def seal(body: dict) -> bytes:
    """The manifest's bytes. It ends in a digest of itself, and this is its only spelling: any other byte is damage.

    Raises:
      ValueError: `body` is not plain JSON (tuples become lists).
    """
    try:
        text = json.dumps(body, indent=1, allow_nan=False)
        same = json.loads(text) == _listed(body)
    except (TypeError, RecursionError):
        same = False
    if not same:
        raise ValueError(
            "config must be plain JSON: dicts with string keys, lists, strings, numbers, true, false, null"
        )
    digest = hashlib.sha256(text.encode()).hexdigest()
    return (json.dumps(body | {"sha256": digest}, indent=1) + "\n").encode()


def unseal(data: bytes) -> dict | None:
    """What `seal` was given, or None when a byte differs from what it wrote."""
    try:
        body = json.loads(data)
        del body["sha256"]
        return body if seal(body) == data else None
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def _listed(value: object) -> object:
    """`value` with lists in place of tuples."""
    if isinstance(value, dict):
        return {key: _listed(item) for key, item in value.items()}
    return [_listed(item) for item in value] if isinstance(value, list | tuple) else value
