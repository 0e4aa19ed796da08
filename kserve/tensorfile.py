"""model.safetensors: named arrays in one file, read by memory map without a copy, and written aligned.

The format is that of the safetensors library: eight bytes with the length of a JSON header, the header, the
data without gaps. Data begins at a multiple of 64 bytes (the header is padded with spaces), and so does every
tensor: the library allows no gaps, so a gap is a named tensor of zero bytes, `padding.N`, which readers here
leave out.
"""

from __future__ import annotations

import json
import mmap
import os
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kserve.errors import BundleCorrupt, BundleTensorError

ALIGNMENT = 64  # bytes: a cache line, and the widest vector register
DTYPES: dict[str, np.dtype[Any]] = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "U32": np.dtype("<u4"),  # words of a K-matrix, each two numbers of 16 bits
    "I8": np.dtype("i1"),
    "I32": np.dtype("<i4"),
    "U8": np.dtype("u1"),
}
_PADDING = "padding."
_MAX_HEADER = 16 << 20  # bytes; a header of a thousand tensors is a tenth of a megabyte

Tensors = dict[str, NDArray[Any]]


def read_tensors(path: Path) -> Tensors:
    """Arrays of the file by name: read-only views of a shared memory map, which lives as long as they do."""
    size = path.stat().st_size
    if size < 8:
        raise BundleCorrupt(f"{path}: {size} bytes; a safetensors file has at least 8. Copy the file again.")
    with path.open("rb") as file:
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    header, start = _read_header(path, data)
    return {
        name: _view(path, data, start, (name, entry)) for name, entry in header.items() if _is_tensor(name)
    }


def write_tensors(path: Path, tensors: Mapping[str, NDArray[Any]]) -> None:
    """Write the arrays, every one at a multiple of 64 bytes, and flush them to the disk."""
    header, gaps = _layout(tensors)
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-(len(text) + 8) % ALIGNMENT)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)))
        file.write(text)
        for name, gap in gaps.items():
            file.write(np.ascontiguousarray(tensors[name]).tobytes())
            file.write(b"\0" * gap)
        file.flush()
        os.fsync(file.fileno())


def dtype_name(array: NDArray[Any]) -> str:
    """The safetensors name of an array's type, or NumPy's own where there is none."""
    return next((name for name, dtype in DTYPES.items() if array.dtype == dtype), str(array.dtype))


def check_finite(path: Path, tensors: Tensors) -> None:
    """No NaN or infinity in any array of floats or of words."""
    for name, array in tensors.items():
        if array.dtype.kind not in "fu":
            continue
        bad = next(_not_finite(array), None)
        if bad is not None:
            where = ", ".join(str(int(part)) for part in np.unravel_index(bad, array.shape))
            value = array.reshape(-1)[bad] if array.dtype.kind == "f" else "NaN or infinity"
            raise BundleTensorError(
                f"{path}: tensor {name} holds {value} at [{where}]; every number must be finite. Export it "
                "again."
            )


def _not_finite(array: NDArray[Any]) -> Iterator[int]:
    """Flat indices of NaN and infinity (exponent bits all ones), in slices so that memory stays small."""
    words = array.dtype.kind == "u"  # both halves of a word have the exponent of a float32
    half = array.dtype.itemsize == 2
    exponent = 0x7F80 if words else 0x7C00 if half else 0x7F800000
    flat: NDArray[Any] = array.reshape(-1).view(np.uint16 if words or half else np.uint32)
    numbers = flat.size // max(array.size, 1)
    step = 1 << 16
    for start in range(0, flat.size, step):
        hits = np.flatnonzero((flat[start : start + step] & exponent) == exponent)
        yield from ((start + int(hit)) // numbers for hit in hits[:1])


def _layout(tensors: Mapping[str, NDArray[Any]]) -> tuple[dict[str, Any], dict[str, int]]:
    """The header, and the gap in bytes after each tensor."""
    header: dict[str, Any] = {}
    gaps: dict[str, int] = {}
    offset = 0
    for name, array in tensors.items():
        kind = dtype_name(array)
        if kind not in DTYPES or not _is_tensor(name):
            raise BundleTensorError(
                f"tensor {name} has type {array.dtype}; expected one of {sorted(DTYPES)} and a name of its "
                "own"
            )
        end = offset + array.nbytes
        header[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": [offset, end]}
        gaps[name] = -end % ALIGNMENT
        offset = end + gaps[name]
        if gaps[name]:
            header[f"{_PADDING}{len(header)}"] = {
                "dtype": "U8", "shape": [gaps[name]], "data_offsets": [end, offset]
            }  # fmt: skip
    return header, gaps


def _read_header(path: Path, data: mmap.mmap) -> tuple[dict[str, Any], int]:
    """The JSON header and the offset of the data, with the sizes checked against the file's."""
    length = int(struct.unpack_from("<Q", data)[0])
    if length > _MAX_HEADER or 8 + length > len(data):
        raise BundleCorrupt(
            f"{path}: the header claims {length} bytes, the file has {len(data)}; it is truncated or not a "
            "safetensors file. Copy it again."
        )
    try:
        header = json.loads(data[8 : 8 + length])
    except ValueError as error:
        raise BundleCorrupt(f"{path}: the header is not JSON ({error}). Copy the file again.") from None
    if not isinstance(header, dict):
        raise BundleCorrupt(f"{path}: the header is not a JSON object. Copy the file again.")
    header.pop("__metadata__", None)
    return header, 8 + length


def _view(path: Path, data: mmap.mmap, start: int, item: tuple[str, Any]) -> NDArray[Any]:
    name, entry = item
    try:
        dtype, shape = DTYPES[entry["dtype"]], tuple(int(size) for size in entry["shape"])
        begin, end = (int(offset) for offset in entry["data_offsets"])
    except (KeyError, TypeError, ValueError):
        raise BundleTensorError(
            f"{path}: tensor {name} is described by {entry!r}; expected a dtype of {sorted(DTYPES)}, a "
            "shape and "
            "data_offsets"
        ) from None
    wanted = dtype.itemsize * int(np.prod(shape, dtype=np.int64))
    if not 0 <= begin <= end or end - begin != wanted or min(shape, default=1) < 0:
        raise BundleTensorError(
            f"{path}: tensor {name} of shape {list(shape)} needs {wanted} bytes; its data_offsets say "
            f"{begin} to {end}"
        )
    if start + end > len(data):
        raise BundleCorrupt(
            f"{path}: tensor {name} ends at byte {start + end}, the file has {len(data)}; it is truncated. "
            "Copy it again."
        )
    if (start + begin) % ALIGNMENT:
        raise BundleTensorError(
            f"{path}: tensor {name} begins at byte {start + begin}; expected a multiple of {ALIGNMENT}. "
            "Export it again."
        )
    return np.frombuffer(data, dtype, count=wanted // dtype.itemsize, offset=start + begin).reshape(shape)


def _is_tensor(name: str) -> bool:
    return not name.startswith(_PADDING)
