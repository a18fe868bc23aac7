"""What a worker prints by whatever way reaches the log: nothing is lost or cut without a mark."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from drmad_workers.ray_actor import failures
from drmad_workers.ray_actor.messages import Failure


def printed(code: str, folder: Path) -> tuple[list[list[str]], subprocess.CompletedProcess[bytes]]:
    """The lines of each report of a process that runs the code, and what it put out itself."""
    head = """
        import ctypes, faulthandler, io, json, os, subprocess, sys, threading, warnings
        from drmad_workers.ray_actor.printed import output as module
        from drmad_workers.ray_actor.printed.output import Output
        output, reports = Output(), []
        def report():
            reports.append(output.take())
    """
    tail = f"\nreport()\nopen({str(folder / 'reports')!r}, 'w').write(json.dumps(reports))\n"
    program = textwrap.dedent(head) + textwrap.dedent(code) + tail
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr.decode()
    return json.loads((folder / "reports").read_text()), done


def test_streams_are_real_and_every_way_to_print_arrives(tmp_path: Path) -> None:
    code = r"""
        print("plain")
        sys.stdout.buffer.write(b"bytes\n")
        sys.stdout.flush()
        os.write(1, b"by the system\n")
        assert (sys.stdout.fileno(), sys.stderr.fileno()) == (1, 2)
        assert sys.stdout.encoding == "utf-8" and not sys.stdout.closed and not sys.stdout.isatty()
        sys.stdout.reconfigure(line_buffering=True, errors="backslashreplace")
        print("surrogate \ud800, text \u00e4\u2713")
        os.write(1, b"no UTF-8 \xff\n")
        subprocess.run(["echo", "of a child"], check=True)
        subprocess.run(["sh", "-c", "echo of a stream"], stdout=sys.stdout, check=True)
        print("joined ", end=""); print("line")
        libc = ctypes.CDLL(None)
        libc.puts(b"of C"); libc.fflush(None)
        report()
        print("on stderr", file=sys.stderr)
        subprocess.run(["sh", "-c", "echo of a child >&2"], stderr=sys.stderr, check=True)
        faulthandler.enable()
        faulthandler.dump_traceback(sys.stderr)
        warnings.warn("a warning")
        report()
        print("open", end="")
        report()
        output.complete()
    """
    (first, second, third, fourth), done = printed(code, tmp_path)
    assert first == [
        "plain",
        "bytes",
        "by the system",
        "surrogate \\ud800, text ä✓",
        "no UTF-8 \\xff",
        "of a child",
        "of a stream",
        "joined line",
        "of C",
    ]
    assert second[:2] == ["on stderr", "of a child"]
    assert any("most recent call first" in line for line in second)
    assert any("a warning" in line for line in second)
    assert (third, fourth) == ([], ["open"])
    assert b"plain\nbytes\nby the system\n" in done.stdout  # Ray's own files have them too
    assert b"on stderr\nof a child\n" in done.stderr


def test_many_lines_and_long_lines_are_whole(tmp_path: Path) -> None:
    code = r"""
        for number in range(50_000):
            print("line", number)
        print("x" * 10_000 + "end")
        os.write(1, b"y" * 3_000_000 + b"\n")
    """
    ((*lines,),), _ = printed(code, tmp_path)
    assert lines[:50_000] == [f"line {number}" for number in range(50_000)]
    rest = lines[50_000:]
    assert all(len(line) <= 2000 for line in rest)
    whole = "".join(line.removesuffix(" …") for line in rest)
    assert whole == "x" * 10_000 + "end" + "y" * 3_000_000
    assert sum(not line.endswith(" …") for line in rest) <= 2 + 3_000_000 // (1 << 16)


def test_what_exceeds_the_memory_is_marked_with_its_number(tmp_path: Path) -> None:
    code = r"""
        module.MAX_LINES = 100
        for number in range(1_000):
            print(number)
    """
    ((mark, *lines),), _ = printed(code, tmp_path)
    assert mark.startswith("… 900 lines are left out here")
    assert lines == [str(number) for number in range(900, 1_000)]


def test_a_bar_of_progress_keeps_its_newest_part(tmp_path: Path) -> None:
    code = r"""
        for number in range(100_000):
            print(f"\r{number} of 100,000", end="")
        print()
        os.write(1, b"of Windows\r\n")
    """
    (lines,), _ = printed(code, tmp_path)
    assert lines == ["99999 of 100,000", "of Windows"]


def test_threads_that_print_more_than_a_pipe_holds_do_not_wait(tmp_path: Path) -> None:
    code = r"""
        def many(name):
            for number in range(20_000):
                os.write(1, f"{name} {number} {'z' * 60}\n".encode())
        threads = [threading.Thread(target=many, args=(name,)) for name in "ab"]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
    """
    (lines,), _ = printed(code, tmp_path)
    assert sorted(lines) == sorted(f"{n} {k} {'z' * 60}" for n in "ab" for k in range(20_000))


def test_a_long_message_is_bounded_in_the_job_and_whole_in_the_log(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def body() -> None:
        raise ValueError("begin " + "m" * 3_000_000 + " end")

    failure = failures.guarded(body, 2)
    assert isinstance(failure, Failure)
    assert failure.traceback is not None
    assert len(failure.message) < 4_200
    assert len(failure.traceback) < 20_200
    for text in (failure.message, failure.traceback):
        assert "begin mmm" in text
        assert text.rstrip().endswith("mmm end")
        assert "characters are in the job's log alone" in text
    assert "m" * 3_000_000 in capsys.readouterr().err


def test_a_short_message_stays_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    def body() -> None:
        raise ValueError("short")

    failure = failures.guarded(body, 2)
    assert isinstance(failure, Failure)
    assert failure.message == "ValueError: short"
    assert capsys.readouterr().err == ""
