"""Collects Python and what the gateway loads into a root file system; runs while the image is built.

Python may be Debian's, or one that a tool such as uv put elsewhere: it finds its standard library by its own
place, and every library is in a folder that the loader searches.
"""

import compileall
import py_compile
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path("/image")
UNUSED = (
    *("__pycache__", "site-packages", "dist-packages", "config-*", "test", "tests", "idlelib", "tkinter"),
    *("turtledemo", "ensurepip", "lib2to3", "pydoc_data", "sqlite3", "curses", "libpython*.a", "_tkinter*"),
    *("_test*", "_xx*", "_sqlite3*", "_curses*", "_dbm*", "_gdbm*", "readline*", "nis*", "ossaudiodev*"),
)
"""Names of files and folders, which the gateway does not import."""


def main() -> None:
    """Write the root file system to :data:`ROOT`."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    python, library = ROOT / "usr/bin/python3", ROOT / "usr/lib" / version
    python.parent.mkdir(parents=True)
    shutil.copy(Path(sys.executable).resolve(), python)
    standard = Path(sys.base_prefix) / "lib" / version
    shutil.copytree(standard, library, ignore=shutil.ignore_patterns(*UNUSED))
    for wheel in Path("wheels").glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(ROOT / "app")
    shutil.copytree("gateway", ROOT / "app/gateway")
    mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
    for folder in (library, ROOT / "app"):
        compileall.compile_dir(folder, quiet=2, stripdir=str(ROOT), invalidation_mode=mode)
    copy_libraries([python, *library.rglob("*.so"), *(ROOT / "app").rglob("*.so")])
    (ROOT / "etc").mkdir()
    (ROOT / "etc/passwd").write_text("root:x:0:0::/:\ngateway:x:65532:65532::/:\n")
    (ROOT / "etc/group").write_text("root:x:0:\ngateway:x:65532:\n")
    (ROOT / "etc/nsswitch.conf").write_text("hosts: files dns\n")
    subprocess.run(["/sbin/ldconfig", "-r", str(ROOT)], check=True)
    for path in ROOT.rglob("*"):
        path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o111 else 0o644)


def copy_libraries(binaries: list[Path]) -> None:
    """Copy the libraries of these binaries, the loader to its own path, and glibc's for host names."""
    listed = (subprocess.run(["ldd", file], capture_output=True, check=False) for file in binaries)
    output = "".join(result.stdout.decode() for result in listed)
    if missing := set(re.findall(r"(\S+) => not found", output)):
        sys.exit(f"libraries are missing in the image with vLLM: {sorted(missing)}")
    libraries = {Path(path) for path in re.findall(r"=> (/\S+)", output)}
    libc = next(path for path in libraries if path.name == "libc.so.6")
    for pattern in ("libnss_dns.so.2", "libnss_files.so.2", "libresolv.so.2"):
        libraries.update(libc.parent.glob(pattern))
    for path in libraries:
        shutil.copy(path.resolve(), ROOT / "usr/lib" / path.name)
    for path in map(Path, re.findall(r"^\s+(/\S+) \(", output, re.MULTILINE)):
        loader = ROOT / path.relative_to("/")
        loader.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path.resolve(), loader)


main()
