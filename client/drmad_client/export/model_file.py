"""A trained model as a file that programs without its code can run; torch must be installed."""

from __future__ import annotations

import warnings
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from drmad_client.errors import DrmadError, UsageError

SUFFIXES = (".safetensors", ".pt2", ".ts", ".onnx")


def write_model(model: nn.Module, example: Tensor | tuple[Any, ...], path: Path | str) -> Path:
    """Write a model in the format that the name of the file states; returns the path.

    Args:
        model: The trained model; see `export.pytorch.load_model`. It is written in evaluation mode.
        example: Inputs of the model, by which it is traced.
        path: .safetensors has the weights and buffers alone, .pt2 the program of torch.export, .ts
            TorchScript, .onnx ONNX, which needs the packages onnx and onnxscript.
    Raises:
        DrmadError: The name has another suffix, a package is missing, or torch cannot export the
            model in this format; the message says why.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise UsageError(f"{path.name} must end in one of {', '.join(SUFFIXES)}")
    inputs = example if isinstance(example, tuple) else (example,)
    was_training = model.training
    model.eval()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch announces the end of TorchScript
            _write(model, inputs, path)
    except ImportError as error:
        raise DrmadError(
            f"{path.name} needs the package {error.name}: pip install onnx onnxscript"
        ) from error
    except DrmadError:
        raise
    except Exception as error:
        raise DrmadError(
            f"torch cannot export this model as {path.suffix}: {type(error).__name__}: {error}"
        ) from error
    finally:
        model.train(was_training)
    return path


def write_adapter(model: nn.Module, folder: Path | str) -> Path:
    """Write the adapter of a PEFT model alone, as `PeftModel.from_pretrained` reads it.

    Raises:
        DrmadError: The model is no PEFT model.
    """
    save = getattr(model, "save_pretrained", None)
    if save is None or not hasattr(model, "peft_config"):
        raise UsageError(
            f"the model must be a PEFT model, which has an adapter, got {type(model).__name__}"
        )
    save(str(folder))
    return Path(folder)


def _write(model: nn.Module, inputs: tuple[Any, ...], path: Path) -> None:
    if path.suffix == ".safetensors":
        from safetensors.torch import save_model

        save_model(model, str(path))
    elif path.suffix == ".pt2":
        torch.export.save(torch.export.export(model, inputs), str(path))
    elif path.suffix == ".ts":
        with torch.no_grad():
            torch.jit.trace(model, inputs).save(str(path))  # type: ignore[no-untyped-call]
    else:
        for package in ("onnx", "onnxscript"):  # torch's own message names only one of them
            import_module(package)
        torch.onnx.export(model, inputs, str(path), dynamo=True)
