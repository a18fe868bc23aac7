"""Every kind of store behaves alike: a folder, a real S3 server and memory."""

from __future__ import annotations

import hashlib
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from drmad_workers.artifacts.artifact import (
    Artifact,
    ArtifactDamaged,
    ArtifactLost,
    ArtifactStoreFails,
)
from drmad_workers.artifacts.store import INCOMING, MODELS, ArtifactLocation, ArtifactStore
from tests.s3 import S3

CONTENT = bytes(range(256)) * 20_000  # 5 MB: above the size of a part of S3


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    return path


def test_an_artifact_is_named_by_its_digest_and_read_back(store: ArtifactStore, file: Path) -> None:
    artifact = store.keep(file, "jobs/job_1/models")
    assert artifact == Artifact(hashlib.sha256(CONTENT).hexdigest(), len(CONTENT))
    key = f"jobs/job_1/models/{artifact.sha256}"
    assert store.read(key, artifact) == CONTENT
    assert store.size(key) == len(CONTENT)
    assert store.holds(key)
    assert not store.holds("jobs/job_2/models/" + artifact.sha256)
    assert file.read_bytes() == CONTENT  # copied: it did not lie in the store's scratch


def test_a_reader_gives_ranges_of_an_artifact(store: ArtifactStore, file: Path) -> None:
    store.put(file, "it")
    with store.reader("it") as reader:
        assert reader.size == len(CONTENT)
        assert reader.read(1_000_003, 10) == CONTENT[1_000_003:1_000_013]
        assert reader.read(len(CONTENT) - 3, 10) == CONTENT[-3:]
        assert reader.read(len(CONTENT), 10) == b""


def test_a_fetched_artifact_has_its_digest(
    store: ArtifactStore, file: Path, tmp_path: Path
) -> None:
    artifact = store.keep(file, "a")
    target = tmp_path / "fetched"
    store.fetch(f"a/{artifact.sha256}", artifact.sha256, target)
    assert target.read_bytes() == CONTENT
    file.write_bytes(CONTENT[::-1])
    store.put(file, f"a/{artifact.sha256}")
    target.unlink()
    with pytest.raises(ArtifactDamaged, match="digest differs"):
        store.fetch(f"a/{artifact.sha256}", artifact.sha256, target)
    assert not target.exists()
    with pytest.raises(ArtifactDamaged, match="digest differs"):
        store.read(f"a/{artifact.sha256}", artifact)


def test_what_is_missing_is_lost_and_not_a_failure_of_the_store(store: ArtifactStore) -> None:
    gone = Artifact("0" * 64, 3)
    with pytest.raises(ArtifactLost, match=f"a/{gone.sha256} is not in the artifact store"):
        store.read(f"a/{gone.sha256}", gone)
    with pytest.raises(ArtifactLost):
        store.size("a")
    store.remove(["a/b", "c"])
    store.remove_below("a")
    assert store.entries() == store.entries("a") == []


def test_artifacts_are_copied_listed_and_removed(store: ArtifactStore, file: Path) -> None:
    artifact = store.keep(file, "jobs/one/models")
    store.copy(f"jobs/one/models/{artifact.sha256}", f"jobs/two/models/{artifact.sha256}")
    store.put(file, "jobs/two/training/other")
    found = {entry.key: entry.size for entry in store.entries("jobs/two")}
    assert found == {
        f"jobs/two/models/{artifact.sha256}": len(CONTENT),
        "jobs/two/training/other": len(CONTENT),
    }
    assert len(store.entries()) == 3
    store.remove(["jobs/two/training/other"])
    store.remove_below("jobs/one")
    assert [entry.key for entry in store.entries()] == [f"jobs/two/models/{artifact.sha256}"]


def test_a_file_of_the_scratch_is_kept_without_a_second_copy(store: ArtifactStore) -> None:
    with store.scratch() as path:
        path.write_bytes(b"abc")
        artifact = store.keep(path, "a")
        if store.folder is not None:
            assert not path.exists()  # moved
    assert store.read(f"a/{artifact.sha256}", artifact) == b"abc"
    assert [entry.key for entry in store.entries()] == [f"a/{artifact.sha256}"]


def test_the_trial_of_a_store_leaves_nothing(store: ArtifactStore) -> None:
    store.try_out()
    assert store.entries() == []


def test_a_folder_is_private_and_its_files_appear_whole(tmp_path: Path, file: Path) -> None:
    store = ArtifactLocation(str(tmp_path / "home" / "artifacts")).open()
    artifact = store.keep(file, "jobs/one/models")
    kept = tmp_path / "home" / "artifacts" / "jobs" / "one" / "models" / artifact.sha256
    assert stat.S_IMODE(kept.stat().st_mode) == 0o640
    assert stat.S_IMODE((tmp_path / "home" / "artifacts").stat().st_mode) == 0o700
    assert [*(tmp_path / "home" / "artifacts" / INCOMING).iterdir()] == []


def test_a_file_of_a_folder_is_read_on_after_its_removal(tmp_path: Path, file: Path) -> None:
    store = ArtifactLocation(str(tmp_path / "artifacts")).open()
    store.put(file, "it")
    with store.reader("it") as reader:
        store.remove(["it"])
        assert reader.read(0, len(CONTENT)) == CONTENT


def test_another_process_reads_what_this_one_wrote_to_s3(s3: S3, tmp_path: Path) -> None:
    location = s3.new_bucket()
    store = location.open()
    assert not store.holds(MODELS)  # nothing of this answer is remembered
    program = (
        "from pathlib import Path\n"
        "from drmad_workers.artifacts.store import ArtifactLocation\n"
        f"Path('it').write_bytes(b'abc')\n"
        f"ArtifactLocation({location.url!r}, {s3.options!r}).open().put(Path('it'), {MODELS!r})"
    )
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True)
    assert store.holds(MODELS)
    assert [entry.size for entry in store.entries()] == [3]


def test_a_wrong_url_a_missing_bucket_and_a_server_that_is_away_are_told(s3: S3) -> None:
    with pytest.raises(ArtifactStoreFails, match=r"expected the URL of a folder, s3://.*nowhere"):
        ArtifactLocation("nowhere://a").open()
    with pytest.raises(ArtifactStoreFails, match=r"s3://absent/x does not exist: create"):
        ArtifactLocation("s3://absent/x", s3.options).open().try_out()
    away = {**s3.options, "client_kwargs": {"endpoint_url": "http://127.0.0.1:9"}}
    away["config_kwargs"] = {"retries": {"total_max_attempts": 1}}
    with pytest.raises(ArtifactStoreFails, match="s3://it fails at"):
        ArtifactLocation("s3://it", away).open().try_out()


def test_credentials_are_not_shown() -> None:
    location = ArtifactLocation("s3://user:word@bucket/x", {"secret": "hidden"})
    assert location.shown == "s3://bucket/x"
    assert "hidden" not in repr(location)
