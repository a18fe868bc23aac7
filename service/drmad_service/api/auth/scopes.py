"""The scope that each route needs, in one table.

A route that the table lacks needs ADMIN, and a test fails until it is added.
"""

from __future__ import annotations

from drmad_service.api.auth.api_keys import Scope

READ, SUBMIT, ADMIN = Scope.READ, Scope.SUBMIT, Scope.ADMIN

SCOPES: dict[tuple[str, str], Scope | None] = {
    # Reading
    ("GET", "/v1/jobs"): READ,
    ("GET", "/v1/jobs/{job_id}"): READ,
    ("GET", "/v1/jobs/{job_id}/logs"): READ,
    ("GET", "/v1/jobs/{job_id}/events"): READ,
    ("GET", "/v1/jobs/{job_id}/figures/{name}"): READ,
    ("GET", "/v1/jobs/{job_id}/history"): READ,
    ("GET", "/v1/jobs/{job_id}/history.parquet"): READ,
    ("GET", "/v1/jobs/{job_id}/trials"): READ,
    ("GET", "/v1/groups/{name}"): READ,
    ("GET", "/v1/jobs/{job_id}/hyperparameters"): READ,
    ("GET", "/v1/jobs/{job_id}/hypergradients"): READ,
    ("GET", "/v1/jobs/{job_id}/hyperparameters/{name}"): READ,
    ("GET", "/v1/jobs/{job_id}/hypergradients/{name}"): READ,
    ("GET", "/v1/jobs/{job_id}/fidelity"): READ,
    ("GET", "/v1/jobs/{job_id}/validations"): READ,
    ("GET", "/v1/jobs/{job_id}/validations/{validation_id}"): READ,
    ("GET", "/v1/jobs/{job_id}/retrainings"): READ,
    ("GET", "/v1/jobs/{job_id}/retrainings/{retraining_id}"): READ,
    ("GET", "/v1/jobs/{job_id}/retrainings/{retraining_id}/model"): READ,
    ("GET", "/v1/jobs/{job_id}/attribution"): READ,
    ("GET", "/v1/jobs/{job_id}/attribution/scores"): READ,
    ("GET", "/v1/jobs/{job_id}/model"): READ,
    ("GET", "/v1/jobs/{job_id}/data"): SUBMIT,  # a worker reads them
    ("GET", "/v1/catalog"): READ,
    ("GET", "/v1/cluster"): READ,
    ("GET", "/v1/audit"): READ,
    ("GET", "/v1/usage"): READ,
    ("GET", "/v1/limits"): ADMIN,
    ("PUT", "/v1/limits/{tenant}"): ADMIN,
    ("GET", "/metrics"): READ,
    # Submitting, and changing jobs that the key has made; others' jobs need MANAGE
    ("POST", "/v1/jobs"): SUBMIT,
    ("PATCH", "/v1/jobs/{job_id}"): SUBMIT,
    ("POST", "/v1/jobs/{job_id}/cancel"): SUBMIT,
    ("POST", "/v1/groups/{name}/cancel"): SUBMIT,
    ("POST", "/v1/jobs/{job_id}/pause"): SUBMIT,
    ("POST", "/v1/jobs/{job_id}/resume"): SUBMIT,
    ("POST", "/v1/jobs/{job_id}/extend"): SUBMIT,
    ("POST", "/v1/jobs/{job_id}/fork"): SUBMIT,
    ("POST", "/v1/jobs/{job_id}/validations"): SUBMIT,
    ("POST", "/v1/jobs/{job_id}/validations/{validation_id}/cancel"): SUBMIT,
    ("POST", "/v1/jobs/{job_id}/retrainings"): SUBMIT,
    ("POST", "/v1/jobs/{job_id}/retrainings/{retraining_id}/cancel"): SUBMIT,
    ("DELETE", "/v1/jobs/{job_id}"): SUBMIT,
    ("PUT", "/v1/code/{sha256}"): SUBMIT,
    ("GET", "/v1/code/{sha256}"): SUBMIT,
    ("HEAD", "/v1/code/{sha256}"): SUBMIT,
    ("PUT", "/v1/data/{sha256}"): SUBMIT,
    ("HEAD", "/v1/data/{sha256}"): SUBMIT,
    ("GET", "/v1/data/{sha256}/parts"): SUBMIT,
    ("PATCH", "/v1/data/{sha256}/parts"): SUBMIT,
    ("DELETE", "/v1/data/{sha256}/parts"): SUBMIT,
    # The dashboard
    ("GET", "/"): READ,
    ("GET", "/jobs/{job_id}"): READ,
    ("GET", "/jobs/{job_id}/download/{file}"): READ,
    ("GET", "/jobs/{job_id}/learned/figure"): READ,
    ("GET", "/jobs/{job_id}/learned/image"): READ,
    ("GET", "/jobs/{job_id}/learned/entries"): READ,
    ("GET", "/jobs/{job_id}/learned/values.csv"): READ,
    ("GET", "/jobs/{job_id}/learned/groups"): READ,
    ("GET", "/compare"): READ,
    ("GET", "/compare/learned"): READ,
    ("GET", "/cluster"): READ,
    ("GET", "/cluster/use"): READ,
    ("GET", "/docs"): READ,
    ("GET", "/live"): READ,
    ("GET", "/jobs/{job_id}/recipe.zip"): SUBMIT,  # it has the job's code
    ("GET", "/jobs/{job_id}/examples"): SUBMIT,  # a worker runs the job's code to read them
    ("GET", "/new"): SUBMIT,
    ("GET", "/new/schema"): SUBMIT,
    ("POST", "/new/check"): SUBMIT,
    ("GET", "/jobs/{job_id}/fork"): SUBMIT,
    # No key needed: these routes reveal nothing about any job
    ("GET", "/healthz"): None,
    ("GET", "/readyz"): None,
    ("GET", "/sign-in"): None,
    ("POST", "/sign-in"): None,
    ("GET", "/sign-in/oidc"): None,
    ("GET", "/sign-in/oidc/callback"): None,
    ("POST", "/sign-out"): None,
    ("GET", "/static/{version}/{name:path}"): None,
    ("GET", "/favicon.ico"): None,
    ("GET", "/openapi.json"): None,
    ("HEAD", "/openapi.json"): None,
}


def needed_for(method: str, path: str) -> Scope:
    """The scope that an authenticated route needs."""
    return SCOPES.get((method, path)) or ADMIN
