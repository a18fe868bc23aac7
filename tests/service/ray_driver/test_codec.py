"""What crosses between the scheduler and the process that drives Ray, and what does not."""

from __future__ import annotations

import math
import pickle
from typing import Any

import msgpack
import numpy as np
import pytest

from drmad_service.ray_driver.codec import LENGTH, Undecodable, decode, encode
from drmad_workers.artifacts.artifact import Artifact
from drmad_workers.artifacts.job_artifacts import JobArtifacts
from drmad_workers.artifacts.store import ArtifactLocation
from drmad_workers.ray_actor.messages import (
    Failure,
    PackedState,
    ProgressReport,
    Retrained,
    StepResult,
    TrialResult,
)

STEP = StepResult(
    {"iteration": 3, "losses": [1.5, math.inf], "name \ud800": None},
    PackedState(b"\x00\xff" * 9, {"iteration": 4, "runs": 2**63}),
    b"gradient",
    None,
    "patience",
)


def content(value: Any) -> bytes:
    message = encode(value)
    assert LENGTH.unpack(message[: LENGTH.size]) == (len(message) - LENGTH.size,)
    return message[LENGTH.size :]


@pytest.mark.parametrize(
    "value",
    [
        None,
        ["call", [1, 2], b"archive", 0.25, {"a": True}],
        STEP,
        [
            Failure("user_code", "ValueError", 1, traceback="line\n"),
            ProgressReport("", 0, 0, ["x"]),
        ],
    ],
)
def test_plain_values_and_messages_arrive_as_they_were(value: Any) -> None:
    assert decode(content(value)) == value


def test_numbers_of_numpy_arrive_as_plain_ones() -> None:
    sent = TrialResult(np.float64(0.5), {"error": np.float32(0.25)})  # type: ignore[dict-item]
    got = decode(content(sent))
    assert got == TrialResult(0.5, {"error": 0.25})
    assert {type(got.validation_loss), type(got.metrics["error"])} == {float}


class Hostile:
    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("ran",)


@pytest.mark.parametrize("value", [Hostile(), [Hostile()], {"a": object()}, {1, 2}, Hostile])
def test_no_other_object_is_sent(value: Any) -> None:
    with pytest.raises(Undecodable, match="is no message of drmad"):
        encode(value)


@pytest.mark.parametrize(
    "received",
    [
        pickle.dumps(Hostile()),
        b"",
        b"\xc1",
        msgpack.packb(msgpack.ExtType(7, b"")),
        msgpack.packb(msgpack.ExtType(1, LENGTH.pack(1))),  # a reference, to the scheduler
        msgpack.packb(msgpack.ExtType(2, msgpack.packb(["Popen", {"args": "id"}]))),
        msgpack.packb(msgpack.ExtType(2, msgpack.packb(["Failure", {"unknown": 1}]))),
        msgpack.packb(msgpack.ExtType(2, msgpack.packb(3))),
        b"\xdd\xff\xff\xff\xff",  # a list of four billion entries
        b"\x91" * 100_000,
    ],
)
def test_a_hostile_message_is_refused_and_runs_nothing(
    received: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(Undecodable):
        decode(received)
    assert capsys.readouterr().out == ""


def test_artifacts_pass_and_a_name_that_leads_elsewhere_is_refused() -> None:
    kept = Retrained([None], Artifact("a" * 64, 5))
    assert decode(content(kept)) == kept
    given = JobArtifacts(ArtifactLocation("s3://bucket/x", {"key": "k"}), "job_1", 10)
    assert decode(content(given)) == given
    for fields in ({"sha256": "../../other", "size": 5}, {"sha256": "a" * 64, "size": -1}):
        forged = msgpack.packb(msgpack.ExtType(2, msgpack.packb(["Artifact", fields])))
        with pytest.raises(Undecodable, match="not a message of drmad"):
            decode(forged)
