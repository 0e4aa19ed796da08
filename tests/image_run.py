"""Runs the command of an image as a container would; it needs a root's rights and nothing to be installed.

    unshare --mount --net --pid --fork python image_run.py CONFIG ROOT REQUESTS

A network of its own with a loopback and nothing behind it, a read-only file system, the image's user,
variables and command. Prints JSON: seconds to ready, what the requests were answered, how the process ended.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import struct
import subprocess
import sys
import time
import urllib.error
import urllib.request
from typing import Any

_READY_SECONDS = 60
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1
_URL = "http://127.0.0.1:8000"


def main(config_path: str, root: str, requests_path: str) -> None:
    """All of it."""
    with open(config_path, encoding="utf-8") as file:
        config = json.load(file)
    with open(requests_path, encoding="utf-8") as file:
        requests = json.load(file)
    _prepare(root)
    environment = dict(entry.partition("=")[::2] for entry in config["Env"])
    command = ["chroot", f"--userspec={config['User']}", "--groups=", root]
    command += [*config["Entrypoint"], *config["Cmd"]]
    # chroot(1) looks the command up itself, in the new root.
    command = ["env", "-i", *(f"{name}={value}" for name, value in environment.items()), *command]
    started = time.perf_counter()
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    found: dict[str, Any] = {"ready_seconds": _wait(process, started)}
    try:
        found["answers"] = [_ask(one) for one in requests]
        health = ["chroot", f"--userspec={config['User']}", root, *config["Healthcheck"]]
        found["health"] = subprocess.run(["env", "-i", *_pairs(environment), *health], check=False).returncode
    finally:
        process.terminate()
        _, log = process.communicate(timeout=30)
    found.update(exit_code=process.returncode, log=log[-2000:])
    print(json.dumps(found))  # noqa: T201


def _pairs(environment: dict[str, str]) -> list[str]:
    return [f"{name}={value}" for name, value in environment.items()]


def _prepare(root: str) -> None:
    """The loopback is up, the root is read-only, /proc and /dev/null are there as in any container."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = struct.pack("16sh14x", b"lo", 0)
        flags = struct.unpack("16sh14x", fcntl.ioctl(control, _SIOCGIFFLAGS, request))[1]
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", flags | _IFF_UP))
    for arguments in (
        ("--make-rprivate", "/"),
        ("--bind", root, root),
        ("-t", "proc", "proc", f"{root}/proc"),
        ("--bind", "/dev", f"{root}/dev"),
        ("-o", "remount,ro,bind", root),
    ):
        subprocess.run(["mount", *arguments], check=True)


def _wait(process: subprocess.Popen[str], started: float) -> float:
    while time.perf_counter() - started < _READY_SECONDS and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{_URL}/ready", timeout=5):
                return time.perf_counter() - started
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.005)
    process.kill()
    sys.exit(f"not ready within {_READY_SECONDS} s: {process.communicate()[1][-2000:]}")


def _ask(body: dict[str, Any]) -> Any:
    data = json.dumps(body).encode()
    request = urllib.request.Request(f"{_URL}/translate", data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)["translatedText"]


if __name__ == "__main__":
    main(*sys.argv[1:])
    os._exit(0)  # as PID 1 of its namespace it has nobody to wait for
