"""Turns exceptions of a worker into a Failure that names the root cause."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from drmad_workers.ray_actor.messages import Failure

T = TypeVar("T")

WORKER_LOST = "worker_lost"
"""The code of a Failure of a worker whose connection to the others of its replica has ended."""
OUT_OF_MEMORY = "out_of_memory"
"""The code of a Failure for lack of memory."""
ARTIFACTS_FAIL = "artifacts_fail"
"""The code of a Failure because of the artifact store, which may answer later."""
REPLICA_LOST = "replica_lost"
LOSSES = (REPLICA_LOST, OUT_OF_MEMORY, ARTIFACTS_FAIL)
"""Codes of failures that a new replica may survive."""
LESS_MEMORY = (
    "a smaller training.batch_size, training.evaluation_rows or hypergradient.budget needs less "
    "memory"
)
"""The remedy that the message of such a Failure names."""


MAX_MESSAGE = 4_000
MAX_TRACEBACK = 20_000
"""Bound the characters of a message and of a traceback in the job; its log has them whole."""


def guarded(body: Callable[[], T], iteration: int | None) -> T | Failure:
    """The result of `body`, or a Failure that names the root cause of its exception.

    Of a message or a traceback beyond its bound the beginning and the end stay; standard error, and
    so the job's log, has all of it.
    """
    result = _guarded(body, iteration)
    return _bounded(result) if isinstance(result, Failure) else result


def _bounded(failure: Failure) -> Failure:
    message = _shortened(failure.message, MAX_MESSAGE)
    trace = failure.traceback and _shortened(failure.traceback, MAX_TRACEBACK)
    if (message, trace) == (failure.message, failure.traceback):
        return failure
    print(failure.traceback or failure.message, file=sys.stderr)
    return replace(failure, message=message, traceback=trace)


def _shortened(text: str, most: int) -> str:
    if len(text) <= most:
        return text
    half = most // 2
    mark = f" … ({len(text) - 2 * half:,} characters are in the job's log alone) … "
    return text[:half] + mark + text[-half:]


def _guarded(body: Callable[[], T], iteration: int | None) -> T | Failure:
    from drmad_workers.artifacts.artifact import ArtifactError
    from drmad_workers.errors import (
        HypergradientDiverged,
        HypergradientError,
        ProblemError,
        TrainingDiverged,
        WorkerLost,
        ran_out_of_memory,
    )
    from drmad_workers.user_code import UserCodeError

    place = "" if iteration is None else f"meta-iteration {iteration + 1}: "
    try:
        return body()
    except ProblemError as error:
        return Failure("problem_invalid", str(error), iteration)
    except TrainingDiverged as error:
        return Failure("training_diverged", f"{place}{error}", iteration, error.step)
    except HypergradientDiverged as error:
        return Failure("hypergradient_diverged", f"{place}{error}", iteration, error.step)
    except HypergradientError as error:
        return Failure("hypergradient_failed", f"{place}{error}", iteration)
    except WorkerLost as error:
        return Failure(WORKER_LOST, str(error), iteration)
    except UserCodeError as error:
        return Failure("user_code", str(error), iteration, traceback=error.traceback)
    except ArtifactError as error:
        return Failure(ARTIFACTS_FAIL, str(error), iteration)
    except Exception as error:
        if ran_out_of_memory(error):
            first = str(error).strip().partition("\n")[0] or type(error).__name__
            return Failure(OUT_OF_MEMORY, f"{first}; {LESS_MEMORY}", iteration)
        message = f"{type(error).__name__}: {error}"
        return Failure("worker_error", message, iteration, traceback=_trimmed(error))


def guarded_with_user_frames(
    body: Callable[[], T], iteration: int | None, folder: Callable[[], Path | None]
) -> T | Failure:
    """As `guarded`; an exception of the user's code keeps only the user's frames.

    `folder` returns that of the code, once it is unpacked.
    """

    def with_user_frames() -> T:
        from drmad_workers.errors import EngineError, ran_out_of_memory
        from drmad_workers.user_code import UserCodeError, user_error

        try:
            return body()
        except (EngineError, UserCodeError):
            raise
        except (Exception, SystemExit) as error:
            code = folder()
            if code is None or ran_out_of_memory(error):
                raise
            raise user_error(error, code) from error

    return guarded(with_user_frames, iteration)


def _trimmed(error: Exception) -> str:
    """The traceback without the frames of installed libraries and of this package.

    Without any other frame the error lies in drmad itself; then all frames below this file remain.
    """
    frames = traceback.extract_tb(error.__traceback__)
    package = str(Path(__file__).parent)
    user_frames = [
        f for f in frames if not f.filename.startswith(package) and "-packages" not in f.filename
    ]
    shown = user_frames or [frame for frame in frames if frame.filename != __file__]
    heading = "Traceback (most recent call last):\n"
    lines = [*traceback.format_list(shown), *traceback.format_exception_only(error)]
    return heading + "".join(lines)
