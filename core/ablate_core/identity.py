"""What makes two things the same: canonical JSON and the short hash of it, used for every key and identity."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from pydantic import BaseModel


def canonical_json(obj: Any) -> str:
    """The one text of a JSON value: sorted keys, no spaces, floats by ``repr`` (shortest that reads back equal).

    Args:
        obj: dicts with string keys, lists or tuples, str, int, float, bool, None, nested.

    Raises:
        ValueError: a float is NaN or infinite; JSON has no such number.
        TypeError: a value or a key is of any other type (``1`` and ``"1"`` as keys would collide).
    """
    _require_string_keys(obj)
    return json.dumps(obj, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def same_as(model: BaseModel, field: str) -> Any:
    """The value of a field; one that computes the same as another is written as that other.

    ``json_schema_extra={"same": {value: other}}`` says so: both then have one key.
    """
    extra, value = type(model).model_fields[field].json_schema_extra, getattr(model, field)
    same = extra.get("same") if isinstance(extra, dict) else None
    return same.get(value, value) if isinstance(same, dict) else value


def content_id(obj: Any, length: int = 12) -> str:
    """The first `length` hex digits of the BLAKE2b hash of ``canonical_json(obj)``; 1 <= length <= 64."""
    if not 1 <= length <= 64:
        raise ValueError(f"a content id has 1 to 64 hex digits, got {length}")
    return hashlib.blake2b(canonical_json(obj).encode(), digest_size=32).hexdigest()[:length]


def arrays_sha256(arrays: Mapping[str, NDArray[Any]]) -> str:
    """SHA-256 of named arrays: names, dtypes, shapes and bytes, whatever file holds them.

    The hash of an npz file would change with the compression or the version of numpy that wrote it.
    """
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"{name}:{array.dtype.newbyteorder('<').str}:{array.shape};".encode())
        digest.update(array.astype(array.dtype.newbyteorder("<")).tobytes())
    return digest.hexdigest()


def diff(a: dict[str, Any], b: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Field-by-field difference of two definitions: dotted field -> (value in a, value in b).

    A field that one side lacks shows as None there. Equal definitions give ``{}``. Used to say *why* two numbers may
    not be compared.
    """
    left, right = _flat(a), _flat(b)
    fields = sorted(left.keys() | right.keys())
    return {
        f: (left.get(f), right.get(f))
        for f in fields
        if (f in left) != (f in right) or canonical_json(left[f]) != canonical_json(right[f])
    }


def _flat(definition: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in definition.items():
        if isinstance(value, dict) and value:
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat


def _require_string_keys(obj: Any) -> None:
    if isinstance(obj, dict):
        for key, value in obj.items():
            if not isinstance(key, str):
                raise TypeError(f"a key of canonical JSON is a string, got {key!r}")
            _require_string_keys(value)
    elif isinstance(obj, (list, tuple)):
        for value in obj:
            _require_string_keys(value)
