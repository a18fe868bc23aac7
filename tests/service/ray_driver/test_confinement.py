"""A confined process, and what it starts, reach no file and no process of the service."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from drmad_service.ray_driver.confinement import is_available

pytestmark = pytest.mark.skipif(not is_available(), reason="this system has no Landlock")

PROGRAM = """
import json, os, subprocess, sys
from pathlib import Path
from drmad_service.ray_driver.confinement import confine

home, other, process = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
opened = open(home / "key")  # before: a descriptor stays
opened.close()
confine([home, home / "key"], [home / "data"], [home / "work"])
attempts = {
    "read the key": lambda: (home / "key").read_text(),
    "read the key by a link": lambda: (other / "link").read_text(),
    "write the key": lambda: (home / "key").write_text(""),
    "remove the key": lambda: (home / "key").unlink(),
    "add to the home": lambda: (home / "more").write_text(""),
    "move the data": lambda: (home / "data").rename(other / "data"),
    "write the data": lambda: (home / "data" / "set").write_text(""),
    "read the environment": lambda: Path(f"/proc/{process}/environ").read_bytes(),
    "read the memory": lambda: open(f"/proc/{process}/mem", "rb"),
    "follow a descriptor": lambda: os.readlink(f"/proc/{process}/fd/0"),
    "signal": lambda: os.kill(int(process), 0),
    "read by a child": lambda: subprocess.run(["cat", home / "key"], check=True),
    "read the disk": lambda: open("/dev/vda", "rb"),
    "make a device": lambda: os.mknod(other / "device", 0o60600, os.makedev(254, 0)),
    "read the data": lambda: (home / "data" / "set").read_text(),
    "write in its own folder": lambda: (home / "work" / "new").write_text(""),
    "write elsewhere": lambda: (other / "new").write_text(""),
    "list": lambda: os.listdir("/"),
    "print to nowhere": lambda: open("/dev/null", "w").write("x"),
    "share memory": lambda: __import__("multiprocessing.shared_memory").shared_memory.SharedMemory(
        create=True, size=8
    ).unlink(),
    "run a program": lambda: subprocess.run(["true"], check=True),
}
done = []
for name, attempt in attempts.items():
    try:
        attempt()
        done.append(name)
    except (OSError, subprocess.CalledProcessError):
        pass
print(json.dumps(done))
"""


@pytest.fixture
def bystander() -> Iterator[int]:
    with subprocess.Popen(["sleep", "600"], env={"SECRET": "s"}) as process:
        yield process.pid
        process.kill()


def test_only_what_is_left_open_can_be_done(tmp_path: Path, bystander: int) -> None:
    home, other = tmp_path / "home", tmp_path / "other"
    for folder in (home / "data", home / "work", other):
        folder.mkdir(parents=True)
    (home / "key").write_text("secret")
    (home / "data" / "set").write_text("data")
    (other / "link").symlink_to(home / "key")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(home), str(other), str(bystander)],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"TMPDIR": str(other)},
    )
    assert json.loads(done.stdout) == [
        "read the data",
        "write in its own folder",
        "write elsewhere",
        "list",
        "print to nowhere",
        "share memory",
        "run a program",
    ]
    assert (home / "key").read_text() == "secret"
    assert (home / "data" / "set").read_text() == "data"
