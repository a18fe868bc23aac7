"""Renders a job as a Python program and as a curl command."""

from __future__ import annotations

import json
import pprint
import shlex
from collections.abc import Mapping
from typing import Any


def python(job: Mapping[str, Any], url: str) -> str:
    literal = pprint.pformat(dict(job), indent=1, width=88, sort_dicts=False)
    return f"""from drmad_client.http.client import Client

job = {literal}

with Client({url!r}) as client:
    submitted = client.jobs.create(job)
    finished = client.jobs.wait(submitted.id)
    print(finished.best)
"""


def curl(job: Mapping[str, Any], url: str) -> str:
    body = shlex.quote(json.dumps(job, indent=2, ensure_ascii=False))
    return f"""curl {url}/v1/jobs \\
  -H "Authorization: Bearer $DRMAD_API_KEY" \\
  -H "Content-Type: application/json" \\
  --data {body}
"""
