"""The C interface of cpp/cuda/butterfly.h on torch tensors.

    library = ButterflyLibrary(build(...))
    y = library.forward(x, twiddle, bias, Grid(tile, out_features))

The same interface is served by the kernels on a GPU and, in tests, by their emulation on the host: the
tensors must live where the library works.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from kserve.cuda.nvcc import CudaUnavailable
from kserve.kmatrix.factors import Grid

TYPES = {torch.float32: 0, torch.bfloat16: 1}
LARGEST_LOG = 14  # of n


class _Sizes(ctypes.Structure):
    _fields_ = (
        ("rows", ctypes.c_int64),
        ("in_features", ctypes.c_int32),
        ("out_features", ctypes.c_int32),
        ("tile", ctypes.c_int32),
        ("log_n", ctypes.c_int32),
        ("blocks", ctypes.c_int32),
        ("x_type", ctypes.c_int32),
        ("twiddle_type", ctypes.c_int32),
        ("device", ctypes.c_int32),
    )


def _pointers(names: str) -> tuple[tuple[str, type[ctypes.c_void_p]], ...]:
    return tuple((name, ctypes.c_void_p) for name in names.split())


class _ForwardArrays(ctypes.Structure):
    _fields_ = _pointers("x twiddle bias y")


class _BackwardArrays(ctypes.Structure):
    _fields_ = _pointers("x twiddle grad_y grad_x grad_twiddle workspace")


class LaunchPlan(NamedTuple):
    """A launch in numbers; the last three are 0 for the forward pass."""

    tile_rows: int
    cluster: int
    threads: int
    blocks: int
    shared_bytes: int
    workers: int
    inputs_held: int
    segments: int


class ButterflyLibrary:
    """A loaded library.

    Args:
        path: The file.

    Raises:
        CudaUnavailable: it cannot be loaded.
    """

    def __init__(self, path: Path) -> None:
        try:
            self.library = ctypes.CDLL(str(path))
        except OSError as error:
            raise CudaUnavailable(f"the compiled CUDA kernels cannot be loaded: {error}") from None
        sizes, numbers = ctypes.POINTER(_Sizes), ctypes.POINTER(ctypes.c_int64)
        for name, arrays in (("forward", _ForwardArrays), ("backward", _BackwardArrays)):
            call = getattr(self.library, f"kserve_butterfly_{name}")
            call.argtypes = (sizes, ctypes.POINTER(arrays), ctypes.c_void_p)
        self.library.kserve_butterfly_workspace.argtypes = (sizes, numbers)
        self.library.kserve_butterfly_plan.argtypes = (sizes, ctypes.c_int, numbers)
        self.library.kserve_butterfly_error.argtypes = (ctypes.c_int,)
        self.library.kserve_butterfly_error.restype = ctypes.c_char_p

    def forward(self, x: Tensor, twiddle: Tensor, bias: Tensor | None, grid: Grid) -> Tensor:
        """Enqueue, on the current stream, y (rows, out) = x (rows, in) times the layer, plus bias (out).

        Args:
            x: (rows, in), float32 or bfloat16; the type of the result.
            twiddle: (grid rows * grid columns, 2 * width, log2 n, n / 2, 2, 2), float32 or bfloat16.
            bias: (out) or None, of the twiddles' type.
            grid: The layer's tile and output size.

        Raises:
            ValueError: types or shapes do not fit.
            CudaUnavailable: the device refused.
        """
        x, twiddle = _aligned(x), _aligned(twiddle)
        sizes = self._sizes(x, twiddle, grid)
        bias = None if bias is None else bias.to(twiddle.dtype).contiguous()
        y = x.new_empty(x.shape[0], grid.out_features)
        arrays = _ForwardArrays(
            x.data_ptr(), twiddle.data_ptr(), None if bias is None else bias.data_ptr(), y.data_ptr()
        )
        self._call("forward", ctypes.byref(sizes), ctypes.byref(arrays), _stream(x))
        return y

    def backward(self, x: Tensor, twiddle: Tensor, grad_y: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
        """Enqueue the gradients of x and twiddle from that of y (rows, out); arguments as for `forward`."""
        x, twiddle, grad_y = _aligned(x), _aligned(twiddle), _aligned(grad_y.to(x.dtype))
        sizes = self._sizes(x, twiddle, grid)
        workspace = torch.empty(self._workspace_bytes(sizes), dtype=torch.uint8, device=x.device)
        grad_x, grad_twiddle = torch.empty_like(x), torch.empty_like(twiddle)
        tensors = (x, twiddle, grad_y, grad_x, grad_twiddle, workspace)
        arrays = _BackwardArrays(*(tensor.data_ptr() for tensor in tensors))
        self._call("backward", ctypes.byref(sizes), ctypes.byref(arrays), _stream(x))
        return grad_x, grad_twiddle

    def largest(self, device: torch.device) -> int:
        """The largest n that fits the shared memory of this device, of a grid both ways; 0 if none does."""
        number = torch.empty(1, device=device)
        for log_n in range(LARGEST_LOG, 0, -1):
            n = 1 << log_n
            x, twiddle = number.expand(1, 2 * n), number.expand(4, 2, log_n, n // 2, 2, 2)
            try:
                for backward in (False, True):
                    self.plan(x, twiddle, Grid(n, 2 * n), backward)
            except CudaUnavailable:
                continue
            return n
        return 0

    def plan(self, x: Tensor, twiddle: Tensor, grid: Grid, backward: bool) -> LaunchPlan:
        """How a launch is cut on the current device."""
        sizes = self._sizes(x, twiddle, grid)
        numbers = (ctypes.c_int64 * len(LaunchPlan._fields))()
        self._call("plan", ctypes.byref(sizes), int(backward), numbers)
        return LaunchPlan(*numbers)

    def _workspace_bytes(self, sizes: _Sizes) -> int:
        size = ctypes.c_int64()
        self._call("workspace", ctypes.byref(sizes), ctypes.byref(size))
        return size.value

    def _sizes(self, x: Tensor, twiddle: Tensor, grid: Grid) -> _Sizes:
        for name, tensor in (("x", x), ("twiddle", twiddle)):
            if tensor.dtype not in TYPES:
                raise ValueError(f"{name} is {tensor.dtype}; the CUDA kernels take float32 and bfloat16")
        return _Sizes(
            x.shape[0], x.shape[1], grid.out_features, grid.tile, twiddle.shape[2], twiddle.shape[1],
            TYPES[x.dtype], TYPES[twiddle.dtype], x.device.index or 0,
        )  # fmt: skip

    def _call(self, name: str, *arguments: object) -> None:
        code = getattr(self.library, f"kserve_butterfly_{name}")(*arguments)
        if code:
            reason = self.library.kserve_butterfly_error(code).decode()
            raise CudaUnavailable(f"the CUDA butterfly ({name}) failed: {reason} (code {code})")


def _stream(x: Tensor) -> int:
    return torch.cuda.current_stream(x.device).cuda_stream if x.is_cuda else 0


def _aligned(tensor: Tensor) -> Tensor:
    """Without gaps and from a multiple of 16 bytes on, which a slice may not be."""
    tensor = tensor.contiguous()
    return tensor if tensor.data_ptr() % 16 == 0 else tensor.clone()
