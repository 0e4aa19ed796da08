"""Takes out of the image's Python packages what a server never reads, and compiles the rest.

    /opt/kserve/bin/python slim.py        # in the environment that is to be made small

The file system is read-only when it runs, so what is not compiled here would be compiled at every start.
"""

from __future__ import annotations

import compileall
import py_compile
import shutil
import sys
import sysconfig
from pathlib import Path

PACKAGES = Path(sysconfig.get_path("purelib"))
# Folders of packages: their tests, their compilers, what builds extensions against them.
FOLDERS = ("tests", "testing", "include", "f2py", "distutils", "_pyinstaller", "__pycache__")
KEPT = ("numpy/testing",)  # numpy looks it up by name when somebody asks for an attribute that it lacks
ENDINGS = (".pyi", ".pyx", ".pxd", ".h", ".a", ".c", ".cpp")


def main() -> None:
    """Delete, compile, and say what is left."""
    before = size()
    for folder in sorted(PACKAGES.rglob("*"), reverse=True):
        if folder.is_dir() and folder.name in FOLDERS and folder.relative_to(PACKAGES).as_posix() not in KEPT:
            shutil.rmtree(folder)
    for file in PACKAGES.rglob("*"):
        if file.suffix in ENDINGS:
            file.unlink()
    # Not checked against their sources at each start: an image does not change.
    mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
    if not compileall.compile_dir(PACKAGES, quiet=1, workers=0, invalidation_mode=mode):
        sys.exit("something does not compile")
    sys.stdout.write(
        f"packages: {before / 1e6:.0f} MB, of which {size() / 1e6:.0f} MB are kept and compiled\n"
    )


def size() -> int:
    """Bytes of all packages."""
    return sum(file.lstat().st_size for file in PACKAGES.rglob("*"))


if __name__ == "__main__":
    main()
