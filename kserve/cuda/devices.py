"""The CUDA devices of this machine as the driver tells them, without torch."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

_CAPABILITY = (75, 76)  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR of cuda.h


@dataclass(frozen=True)
class Device:
    """Name and compute capability."""

    name: str
    capability: tuple[int, int]


def devices() -> list[Device]:
    """The devices in the driver's order; none where there is no driver or it does not start."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return []
    count = ctypes.c_int()
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
        return []
    return [_device(driver, index) for index in range(count.value)]


def _device(driver: ctypes.CDLL, index: int) -> Device:
    handle, number = ctypes.c_int(), ctypes.c_int()
    name = ctypes.create_string_buffer(256)
    driver.cuDeviceGet(ctypes.byref(handle), index)
    driver.cuDeviceGetName(name, len(name), handle)
    capability = []
    for attribute in _CAPABILITY:
        driver.cuDeviceGetAttribute(ctypes.byref(number), attribute, handle)
        capability.append(number.value)
    return Device(name.value.decode(errors="replace"), (capability[0], capability[1]))
