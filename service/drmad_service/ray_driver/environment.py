"""The environment of processes that run user code: what an allow-list names, and nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

_NAMES = frozenset(
    {
        "HOME",
        "LANG",
        "LANGUAGE",
        "LD_LIBRARY_PATH",
        "LOGNAME",
        "NO_PROXY",
        "PATH",
        "SSL_CERT_DIR",
        "SSL_CERT_FILE",
        "REQUESTS_CA_BUNDLE",
        "SHELL",
        "TMPDIR",
        "TZ",
        "USER",
        "VIRTUAL_ENV",
        "XDG_CACHE_HOME",
        "http_proxy",
        "https_proxy",
        "no_proxy",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "HF_HOME",
        "HF_HUB_OFFLINE",
        "TRANSFORMERS_OFFLINE",
    }
)
_PREFIXES = (
    "LC_",
    "PYTHON",
    "RAY_",
    "PIP_",
    "OMP_",
    "MKL_",
    "KMP_",
    "OPENBLAS_",
    "NUMEXPR_",
    "TORCH",
    "PYTORCH_",
    "TRITON_",
    "CUDA_",
    "CUBLAS_",
    "CUDNN_",
    "NCCL_",
    "NVIDIA_",
    "HIP_",
    "ROCR_",
    "GLOO_",
)


def worker_environment(source: Mapping[str, str], further: Iterable[str] = ()) -> dict[str, str]:
    """The variables of `source` that workers receive; `further` are names that the operator adds.

    What a program reads by the name of a credential is not among them: tokens, keys, passwords, and
    every setting of drmad.
    """
    wanted = _NAMES | set(further)
    return {
        name: value
        for name, value in source.items()
        if name in wanted or name.startswith(_PREFIXES)
    }
