"""Defaults of the built-in models, which the client and the engine share. Needs no pydantic."""

from __future__ import annotations

from typing import Any

MLP: dict[str, Any] = {"hidden": [50], "activation": "tanh"}
CNN: dict[str, Any] = {"channels": [8, 16], "activation": "relu", "batch_norm": False}
