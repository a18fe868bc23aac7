"""A catalogued problem trained on its clean validation examples alone."""

from pathlib import Path
from typing import Any

from drmad_workers import Problem
from drmad_workers.catalog import Places, build_problem


def build(model: dict[str, Any], data: dict[str, Any], roots: list[str]) -> Problem:
    problem = build_problem(model, data, places=Places([Path(root) for root in roots]))
    problem.train = problem.valid
    problem.diagnostics = {}
    return problem
