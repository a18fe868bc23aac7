"""Files of a trained model, read back by torch without the model's code."""

from __future__ import annotations

import importlib.util
import json
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from drmad_client.errors import DrmadError
from drmad_client.export.model_file import write_adapter, write_model


def trained() -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3))
    inputs = torch.randn(5, 4)
    model(inputs)  # moves the running statistics
    return model, inputs


def test_every_format_gives_the_outputs_of_the_model(tmp_path: Path) -> None:
    model, inputs = trained()
    expected = model.eval()(inputs)
    model.train()
    for name in ("model.safetensors", "model.pt2", "model.ts"):
        write_model(model, inputs, tmp_path / name)
    assert model.training
    tensors = load_file(tmp_path / "model.safetensors")
    assert tensors.keys() == model.state_dict().keys()
    program = torch.export.load(str(tmp_path / "model.pt2")).module()
    torch.testing.assert_close(program(inputs), expected)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        script = torch.jit.load(str(tmp_path / "model.ts"))  # type: ignore[no-untyped-call]
    torch.testing.assert_close(script(inputs), expected)


def test_what_cannot_be_written_is_said(tmp_path: Path) -> None:
    model, inputs = trained()
    with pytest.raises(DrmadError, match=r"must end in one of \.safetensors"):
        write_model(model, inputs, tmp_path / "model.bin")

    class Branches(nn.Module):
        def forward(self, batch: torch.Tensor) -> torch.Tensor:
            return batch if float(batch.sum()) > 0 else -batch

    with pytest.raises(DrmadError, match=r"torch cannot export this model as \.pt2"):
        write_model(Branches(), inputs, tmp_path / "model.pt2")
    with pytest.raises(DrmadError, match="must be a PEFT model"):
        write_adapter(model, tmp_path)


@pytest.mark.skipif(importlib.util.find_spec("onnx") is not None, reason="onnx is installed")
def test_onnx_names_the_packages_that_it_needs(tmp_path: Path) -> None:
    model, inputs = trained()
    with pytest.raises(DrmadError, match="pip install onnx onnxscript"):
        write_model(model, inputs, tmp_path / "model.onnx")


def test_of_a_peft_model_the_adapter_alone_is_written(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    model, _ = trained()
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["0"]))
    write_adapter(adapted, tmp_path)
    written = load_file(tmp_path / "adapter_model.safetensors")
    assert {tuple(tensor.shape) for tensor in written.values()} == {(2, 4), (6, 2)}
    assert json.loads((tmp_path / "adapter_config.json").read_text())["r"] == 2
