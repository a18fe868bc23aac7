"""Bytes and texts that nobody would write, for what reads archives and jobs."""

from __future__ import annotations

import io
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from drmad_client.errors import DrmadError
from drmad_client.files import code_archive
from drmad_client.files.code_archive import CodeError
from drmad_client.spec.job import JobSpec
from drmad_client.spec.text.job_file import read
from drmad_service.dashboard import job_editor

MOST_BYTES = 100_000

fuzzed = settings(
    max_examples=100,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
fuzzed_long = settings(fuzzed, max_examples=20_000)

names = st.one_of(
    st.text(max_size=20),
    st.sampled_from(["a.py", "../a", "/a", "a/../../b", "C:\\a", "a\x00b", "a" * 300, ".", "a/b"]),
)
modes = st.sampled_from([0, 0o100644, 0o120777, 0o010644, 0o040755, 0o060644])


@st.composite
def archives(draw: st.DrawFn) -> bytes:
    """A zip as a hostile writer makes it, and then with some of its bytes changed."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name in draw(st.lists(names.map(lambda name: name or "x"), max_size=4, unique=True)):
            info = zipfile.ZipInfo("x")
            info.filename = name
            info.external_attr = draw(modes) << 16
            info.compress_type = draw(st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]))
            archive.writestr(info, draw(st.binary(max_size=64)) * draw(st.integers(1, 2000)))
            if draw(st.booleans()):  # the directory at the end names it otherwise
                info.filename = draw(names)
    content = bytearray(packed.getvalue())
    for _ in range(draw(st.integers(0, 6))):
        content[draw(st.integers(0, len(content) - 1))] = draw(st.integers(0, 255))
    cut = draw(st.integers(0, len(content)))
    return bytes(content[:cut]) if draw(st.booleans()) else bytes(content)


def opened_safely(content: bytes) -> None:
    """Refused with a word, or unpacked into its folder and no further, within its limit."""
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent, "inside")
        folder.mkdir()
        try:
            code_archive.check(content, MOST_BYTES)
            code_archive.unpack(content, folder, MOST_BYTES)
        except CodeError:
            pass
        assert [path.name for path in Path(parent).iterdir()] == ["inside"]
        written = [path for path in folder.rglob("*") if not path.is_dir()]
        assert all(path.is_file() and not path.is_symlink() for path in written)
        assert sum(path.stat().st_size for path in written) <= MOST_BYTES


@fuzzed
@given(st.one_of(archives(), st.binary(max_size=300)))
def test_any_bytes_are_refused_or_unpacked_inside(content: bytes) -> None:
    opened_safely(content)


@pytest.mark.full
@fuzzed_long
@given(st.one_of(archives(), st.binary(max_size=300)))
def test_many_more_bytes_are_refused_or_unpacked_inside(content: bytes) -> None:
    opened_safely(content)


JOB = """
name: clean
problem: {model: {name: mlp, hidden: [50]}, data: {name: digits, train: 1000}}
hyperparameters:
  - {kind: sample_weight}
  - {kind: l2, per: unit, init: -9.0}
training: {optimizer: sgd, steps: 1000, batch_size: 100, learning_rate: 0.05}
meta: {optimizer: adam, learning_rate: 0.3, iterations: 30, patience: null}
tags: {team: vision}
notify: {webhook: null}
"""

values = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(max_size=20),
        st.dates(),
        st.sampled_from([10**400, -(10**400), "*a", "!!python/object:os.system", "&a [*a]"]),
    ),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)


_MARKS = list("{}[]:,*&!|>%@`'\"\\\n\t- ")


@st.composite
def jobs(draw: st.DrawFn) -> str:
    """YAML: a job with parts exchanged, or with characters changed, or any text at all."""
    kind = draw(st.integers(0, 3))
    if kind == 0:
        return draw(st.text(max_size=200))
    if kind == 1:
        job: Any = yaml.safe_load(JOB)
        for _ in range(draw(st.integers(1, 3))):
            field = draw(st.sampled_from(sorted(job)))
            if isinstance(job[field], dict) and draw(st.booleans()) and job[field]:
                job[field][draw(st.sampled_from(sorted(job[field])))] = draw(values)
            else:
                job[field] = draw(values)
        return yaml.safe_dump(job)
    text = list(JOB)
    for _ in range(draw(st.integers(1, 12))):
        at = draw(st.integers(0, len(text) - 1))
        text[at] = draw(
            st.one_of(st.sampled_from(list("{}[]:,*&!|>%@`'\"\\\n\t- ")), st.characters())
        )
    return "".join(text)


def read_safely(text: str, folder: Path) -> None:
    """The editor names the error, the command line raises its own error, and both agree."""
    validated = job_editor.validate(job_editor.Draft(text=text))
    file = folder / "job.yaml"
    file.write_text(text, encoding="utf-8", errors="surrogatepass")
    try:
        spec = JobSpec.model_validate(read(file))
    except (DrmadError, ValidationError):
        return
    if not validated.findings:
        assert JobSpec.model_validate_json(spec.model_dump_json()) == spec


@fuzzed
@given(text=jobs())
def test_any_text_is_a_job_or_gets_an_error(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    read_safely(text, tmp_path_factory.getbasetemp())


@pytest.mark.full
@fuzzed_long
@given(text=jobs())
def test_many_more_texts_are_jobs_or_get_an_error(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    read_safely(text, tmp_path_factory.getbasetemp())
