"""What a process printed before a signal ended it is read by another one."""

from __future__ import annotations

import secrets
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from drmad_workers.ray_actor.printed import remains

HEAD = """
    import ctypes, faulthandler, os, signal, subprocess, sys
    from drmad_workers.ray_actor.printed.output import Output
    output = Output(sys.argv[1])
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    return tmp_path


def left(code: str, read: tuple[int, int] = (0, 0)) -> tuple[list[str], int]:
    """The remains of a process that runs the code, and its exit status."""
    name = secrets.token_hex(8)
    program = textwrap.dedent(HEAD) + textwrap.dedent(code)
    done = subprocess.run([sys.executable, "-c", program, name], capture_output=True, timeout=60)
    return remains.read_remains(name, read, time.monotonic() + 30.0), done.returncode


@pytest.mark.parametrize(
    ("end", "status"),
    [
        ("os._exit(3)", 3),
        ("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL),
        ("ctypes.string_at(0)", -signal.SIGSEGV),
        ("os.abort()", -signal.SIGABRT),
    ],
)
def test_the_last_words_of_a_process_that_a_signal_ends_are_whole(end: str, status: int) -> None:
    code = f"""
        for number in range(1_000):
            print("line", number)
        subprocess.run(["echo", "of a child"])
        print("on stderr", file=sys.stderr)
        os.write(1, b"the very last, with no end of line")
        {end}
    """
    for _ in range(3):  # the reading thread and the end race
        lines, found = left(code)
        assert found == status
        numbers = [f"line {number}" for number in range(1_000)]
        rest = ["of a child", "the very last, with no end of line", "on stderr"]
        assert lines[:1_003] == numbers + rest


def test_the_traceback_of_faulthandler_is_there() -> None:
    lines, _ = left("faulthandler.enable()\ndef broken(): ctypes.string_at(0)\nbroken()")
    assert "Fatal Python error: Segmentation fault" in lines
    assert any("in broken" in line for line in lines)


def test_lines_that_were_reported_are_not_repeated() -> None:
    code = """
        print("reported")
        print("open", end="")
        assert output.take() == ["reported"] and output.read == (9, 0)
        print(" line")
        os._exit(1)
    """
    assert left(code, read=(9, 0)) == (["open line"], 1)


def test_of_much_output_the_newest_is_there_and_the_rest_marked() -> None:
    code = """
        for number in range(200_000):
            os.write(1, b"%100d\\n" % number)
        os._exit(1)
    """
    (mark, _cut, *lines), _ = left(code)
    assert mark.endswith("bytes are left out here: the process has ended")
    assert 40_000 < len(lines) < 100_000
    first = 200_000 - len(lines)
    assert [int(line) for line in lines] == list(range(first, 200_000))


def test_children_of_the_user_are_all_children_of_the_process() -> None:
    code = """
        try:
            os.wait()
        except ChildProcessError:
            print("none")
        os._exit(1)
    """
    assert left(code) == (["none"], 1)


def test_a_child_that_outlives_the_process_delays_nothing() -> None:
    code = """
        child = subprocess.Popen(["sleep", "60"])
        print(child.pid)
        os._exit(1)
    """
    begin = time.monotonic()
    (pid,), _ = left(code)
    subprocess.run(["kill", pid], check=True)
    assert time.monotonic() - begin < 50


def test_a_closed_stream_is_no_busy_loop() -> None:
    code = """
        import time
        os.close(1); os.close(2)
        begun = time.process_time()
        time.sleep(0.3)
        os._exit(time.process_time() - begun > 0.2)
    """
    assert left(code) == ([], 0)


def test_a_process_that_lives_has_no_remains_and_files_of_others_are_swept(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left("print('x'); os._exit(1)")
    assert not [path for path in folder.rglob("*") if path.is_file()]
    code = textwrap.dedent(HEAD) + "print('alive', flush=True); sys.stdin.read()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, "named"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"alive\n"
    assert remains.read_remains("named", (0, 0), time.monotonic()) == []
    process.communicate()
    monkeypatch.setattr(remains, "_KEPT_S", -1.0)
    while not [*folder.rglob("named.ended")]:
        time.sleep(0.01)
    remains._sweep()
    assert not [path for path in folder.rglob("*") if path.is_file()]
