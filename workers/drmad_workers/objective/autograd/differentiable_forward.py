"""A forward pass in which nothing is a constant, from which second derivatives are taken.

Training takes some values for constants: what `detach` or `no_grad` cuts off, and the buffers that
a forward pass updates. The gradient of a step depends on these values all the same, and so does
the trained model. The derivative of the gradient must therefore pass through them.

Inside a DifferentiableForward the values are computed as always. A cut becomes an identity whose
derivative is zero while the gradient itself is taken, and one while the gradient is differentiated
(inside `through_cuts`). Updates of carried buffers build new tensors, with a graph, in the place of
the old ones; so does what is written in place inside `no_grad`. `inference_mode` is `no_grad`. A
parameter that the loss freezes for a while is cut, and so is a deep copy. A function of the user's
with a backward pass of its own keeps it for the gradient; the derivative of its value is that of
its forward pass. Four operations take another form, because torch has no second derivative of
theirs or a wrong one: attention (the math kernel), weight normalization (written out; in torch 2.13
its double backward is wrong on CPUs), embeddings whose gradient leaves out a padding row or is
divided by frequencies, and batch normalization where its running statistics matter.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache, partial
from types import FunctionType
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map_only

from drmad_workers.objective.autograd.cuts import OwnBackward, cut, hook_of_training, modes


class _NoContext:
    """What a function's forward pass is given in the place of a context: it keeps nothing."""

    def __init__(self, inputs: tuple[Any, ...]) -> None:
        self.needs_input_grad = tuple(_has_graph(each) for each in inputs)

    def save_for_backward(self, *tensors: Any) -> None: ...

    save_for_forward = mark_dirty = mark_non_differentiable = save_for_backward

    def set_materialize_grads(self, value: bool) -> None: ...


_inference_of_torch = torch.inference_mode.__enter__
_deepcopy_of_torch = nn.Parameter.__deepcopy__
_apply_of_torch = torch.autograd.Function.__dict__["apply"]
_OWN = ("torch.", "drmad_workers.")


def _join_derivatives(trained: Any, value: Any) -> Any:
    if not (isinstance(value, Tensor) and isinstance(trained, Tensor) and _has_graph(trained)):
        return trained
    value = value if value.requires_grad else value.detach()
    return OwnBackward.apply(trained, value)  # type: ignore[no-untyped-call]


class DifferentiableForward(TorchFunctionMode):
    """See the module; `carried` holds the value of every carried buffer by the buffer's id.

    Attributes:
        carried: the values; an update inside replaces the buffer's value and not the buffer.
        has_cuts: whether a value was cut off, so that the gradient's Jacobian may not be symmetric.
        is_suspect: whether derivatives may be missing all the same: Python read a value that has a
            graph, or a function of the user's has a backward pass of its own.
        has_attention: whether attention took the math kernel, which holds its matrix in memory.
    """

    def __init__(
        self, carried: Mapping[int, Tensor] | None = None, primitive: bool = False
    ) -> None:
        """`primitive` writes batch normalization out, for derivatives of the third order."""
        super().__init__()
        self.carried = dict(carried or {})
        self.has_cuts = False
        self.is_suspect = False
        self.has_attention = False
        self._primitive = primitive
        self._frozen: dict[int, Tensor] = {}
        self._written: list[Tensor] = []  # keeps the ids of `carried` from being reused

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        form = _FORMS.get(func)
        if form is not None:
            return form(self, *args, **kwargs)
        if isinstance(func, FunctionType) and (inner := _undispatched(func)) is not None:
            with self:
                return inner(*args, **kwargs)
        if isinstance(kwargs.get("out"), Tensor):
            return self._write_out(func, args, kwargs)
        writes = _writes(func)
        target = args[0] if writes and args else None
        given = args[1:] if writes else args
        had_cuts = self.has_cuts
        given, kwargs = self.values((given, kwargs))
        if target is None:
            result = self._call(func, given, kwargs)
            self.has_cuts = had_cuts or (self.has_cuts and _has_graph(result))
            return result
        return self._write(func, target, given, kwargs)

    def _write(self, func: Any, target: Any, given: Any, kwargs: Any) -> Any:
        """An operation that writes into a tensor, or a list of them, as one that makes new ones."""
        targets = [target] if isinstance(target, Tensor) else list(target)
        replaced = [each for each in targets if self._is_replaced(each)]
        if not replaced:
            return self._call(func, (target, *given), kwargs)
        with torch.enable_grad():
            for each in replaced:
                self.carried[id(each)] = self.carried.get(id(each), each).clone()
            fresh = [self.carried.get(id(each), each) for each in targets]
            out = func(fresh[0] if target is targets[0] else fresh, *given, **kwargs)
        self._written += replaced
        return target if out is fresh[0] or out is None or out is fresh else out

    def _is_replaced(self, target: Tensor) -> bool:
        is_cut = target.requires_grad and not torch.is_grad_enabled()
        return is_cut or id(target) in self.carried

    def __enter__(self) -> Self:
        modes.append(self)

        def apply(cls: Any, *inputs: Any, **named: Any) -> Any:
            return self._apply_function(cls, *inputs, **named)

        def copy(parameter: Tensor, memo: dict[int, Any]) -> Tensor:
            return self._deepcopy(parameter, memo)

        torch.autograd.Function.apply = classmethod(apply)  # type: ignore[assignment,method-assign]
        nn.Parameter.__deepcopy__ = copy  # type: ignore[method-assign]
        torch.inference_mode.__enter__ = _enter_no_grad  # type: ignore[method-assign]
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        modes.pop()
        if not modes:
            torch.autograd.Function.apply = _apply_of_torch  # type: ignore[method-assign]
            nn.Parameter.__deepcopy__ = _deepcopy_of_torch  # type: ignore[method-assign]
            torch.inference_mode.__enter__ = _inference_of_torch  # type: ignore[method-assign]

    def values(self, tree: Any) -> Any:
        """The tree with carried values, and with cuts where no gradient is recorded."""
        if self.carried:
            tree = tree_map_only(Tensor, lambda each: self.carried.get(id(each), each), tree)
        if self._frozen:
            tree = tree_map_only(Tensor, self._cut_frozen, tree)
        if not torch.is_grad_enabled():
            tree = tree_map_only(Tensor, self.cut, tree)
        return tree

    def cut(self, tensor: Tensor) -> Tensor:
        """The tensor behind a Cut."""
        self.has_cuts |= tensor.requires_grad
        return cut(tensor)

    def _call(self, func: Any, args: Any, kwargs: Any) -> Any:
        if torch.is_grad_enabled() or not _has_graph((args, kwargs)):
            return func(*args, **kwargs)
        with torch.enable_grad():
            return func(*args, **kwargs)

    def _write_out(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Tensor:
        out: Tensor = kwargs.pop("out")
        value = self.__torch_function__(func, (), args, kwargs)
        self.__torch_function__(Tensor.copy_, (), (out, value))
        return out

    def _detach(self, tensor: Tensor) -> Tensor:
        """Updates of a carried tensor are cut, and an alias of it may be written to."""
        if id(tensor) in self.carried:
            return tensor
        return self.cut(tensor) if tensor.requires_grad else tensor.detach()

    def _detach_in_place(self, tensor: Tensor) -> Tensor:
        """The tensor keeps its graph, and a cut stands for it from here on."""
        if tensor.requires_grad and id(tensor) not in self.carried:
            self.carried[id(tensor)] = self.cut(tensor)
            self._written.append(tensor)
        return tensor

    def _set_data(self, tensor: Tensor, value: Tensor) -> None:
        if id(tensor) in self.carried:
            self.carried[id(tensor)] = self._detach(value)
        else:
            tensor.data = value

    def _cut_frozen(self, tensor: Tensor) -> Tensor:
        return self.cut(tensor) if id(tensor) in self._frozen else tensor

    def _requires_grad(self, tensor: Tensor) -> bool:
        return tensor.requires_grad and id(tensor) not in self._frozen

    def _set_requires_grad(self, tensor: Tensor, value: bool = True) -> Tensor:
        """A parameter is frozen by a cut, and keeps its place among the inputs of the loss."""
        if value and id(tensor) in self._frozen:
            del self._frozen[id(tensor)]
        elif not value and tensor.requires_grad:
            self._frozen[id(tensor)] = tensor
        else:
            tensor.requires_grad_(value)
        return tensor

    def _deepcopy(self, tensor: Tensor, memo: dict[int, Any]) -> Tensor:
        """A copy that moves with the tensor: a teacher that copies the model, for example."""
        if id(tensor) not in memo:
            value = self.carried.get(id(tensor), tensor)
            with torch.enable_grad():
                memo[id(tensor)] = self.cut(value).clone()
        found: Tensor = memo[id(tensor)]
        return found

    def _apply_function(self, cls: Any, *inputs: Any, **named: Any) -> Any:
        """Function.apply, with the derivative of the forward pass beside that of `backward`."""
        trained = _apply_of_torch.__func__(cls, *inputs, **named)
        if cls.__module__.startswith(_OWN) or named or not _has_graph(inputs):
            return trained
        self.is_suspect = True
        copies = tree_map_only(Tensor, lambda each: each.clone(), inputs)
        is_new_style = cls.setup_context is not torch.autograd.Function.setup_context
        context = () if is_new_style else (_NoContext(copies),)
        try:
            value = cls.forward(*context, *copies)
        except (RuntimeError, AttributeError, TypeError):
            return trained
        if not isinstance(trained, tuple):
            return _join_derivatives(trained, value)
        return tuple(map(_join_derivatives, trained, value))

    def _read(self, tensor: Tensor) -> Tensor:
        """The value without its graph, which Python or NumPy reads."""
        value = self.carried.get(id(tensor), tensor)
        self.is_suspect |= value.requires_grad
        return value.detach()

    def _numpy(self, tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
        return self._read(tensor).numpy(*args, **kwargs)

    def _item(self, tensor: Tensor) -> Any:
        return self._read(tensor).item()

    def _float(self, tensor: Tensor) -> float:
        return float(self._read(tensor))

    def _tolist(self, tensor: Tensor) -> Any:
        return self._read(tensor).tolist()

    def _array(self, tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
        return self._read(tensor).__array__(*args, **kwargs)  # type: ignore[no-untyped-call]

    def _gradient(self, *args: Any, **kwargs: Any) -> Any:
        """A gradient that the loss takes; without `create_graph` it is cut."""
        stated = dict(zip(_GRADIENT_ARGUMENTS, args, strict=False)) | kwargs
        wants_graph = stated.pop("create_graph", None)
        stated = {name: self.values(value) for name, value in stated.items()}
        found = torch.autograd.grad(create_graph=True, **stated)
        return found if wants_graph else tree_map_only(Tensor, self.cut, found)

    def _backward(self, tensor: Tensor, *args: Any, **kwargs: Any) -> None:
        self.is_suspect = True
        tensor.backward(*args, **kwargs)  # type: ignore[no-untyped-call]

    def _register_hook(self, tensor: Tensor, hook: Callable[..., Any]) -> Any:
        return tensor.register_hook(hook_of_training(hook))  # type: ignore[no-untyped-call]

    def _attention(self, *args: Any, **kwargs: Any) -> Tensor:
        from torch.nn.attention import SDPBackend, sdpa_kernel

        self.has_attention = True
        args, kwargs = self.values((args, kwargs))
        with sdpa_kernel(SDPBackend.MATH), torch.enable_grad():
            return functional.scaled_dot_product_attention(*args, **kwargs)

    def _weight_norm(self, direction: Tensor, length: Tensor, dim: int = 0) -> Tensor:
        direction, length = self.values((direction, length))
        with torch.enable_grad():
            norm = torch.norm_except_dim(direction, 2, dim)
            return direction * (length / norm)

    def _fake_quantize(
        self, values: Tensor, scale: Any, *given: Any, quantize: Callable[..., Tensor]
    ) -> Tensor:
        """Values on a grid, whose gradient goes straight through; they move with its scale alone.

        A channel of the axis given[1] has a scale of its own, if there are several.
        """
        values, scale, given = self.values((values, scale, given))
        constant = scale.detach() if isinstance(scale, Tensor) else scale
        trained = self._call(quantize, (values, constant, *given), {})
        value = trained.detach()
        if _has_graph(scale):
            with torch.enable_grad():
                change = scale / constant
                axis = given[1] if change.numel() > 1 else 0
                value = value * change.view([-1, *[1] * (value.ndim - axis - 1)])
        joined: Tensor = _join_derivatives(trained, value)
        return joined

    def _embedding(
        self,
        weight: Tensor,
        indices: Tensor,
        padding_idx: int = -1,
        scale_grad_by_freq: bool = False,
        sparse: bool = False,
    ) -> Tensor:
        """Rows of a table; training's gradient leaves out padding, or divides by frequencies."""
        (weight,) = self.values((weight,))
        is_plain = padding_idx == -1 and not scale_grad_by_freq
        if is_plain or not weight.requires_grad:
            given = (weight, indices, padding_idx, scale_grad_by_freq, sparse)
            found: Tensor = self._call(torch.embedding, given, {})
            return found
        trained = torch.ones(indices.shape, dtype=weight.dtype, device=weight.device)
        if scale_grad_by_freq:
            counts = torch.bincount(indices.reshape(-1), minlength=weight.shape[0])
            trained = trained / counts[indices]
        if padding_idx != -1:
            trained = trained.masked_fill(indices == padding_idx % weight.shape[0], 0.0)
        with torch.enable_grad():
            rows = torch.embedding(weight, indices, -1, False, sparse)
            constant = self.cut(rows)
            return constant + trained.unsqueeze(-1) * (rows - constant)

    def _batch_norm(
        self,
        input: Tensor,  # noqa: A002 (torch's name)
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        values, weight, bias = self.values((input, weight, bias))
        dims = [0, *range(2, values.ndim)]
        with torch.enable_grad():
            if not training:
                mean, var = self.values((running_mean, running_var))
                if not mean.requires_grad:
                    return functional.batch_norm(values, mean, var, weight, bias, eps=eps)
                return _normalized(values, mean, var, weight, bias, eps)
            if running_mean is not None:
                observed = self.cut(values).to(running_mean.dtype)
                var, mean = torch.var_mean(observed, dims, correction=1)
                self._follow(running_mean, mean, momentum)
                self._follow(running_var, var, momentum)
            if not self._primitive:
                return functional.batch_norm(values, None, None, weight, bias, True, momentum, eps)
            var, mean = torch.var_mean(values, dims, correction=0)
            return _normalized(values, mean, var, weight, bias, eps)

    def _instance_norm(
        self,
        input: Tensor,  # noqa: A002 (torch's name)
        running_mean: Tensor | None = None,
        running_var: Tensor | None = None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        use_input_stats: bool = True,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        if not use_input_stats:
            return self._batch_norm(input, running_mean, running_var, weight, bias, False, 0.0, eps)
        values, weight, bias = self.values((input, weight, bias))
        dims = list(range(2, values.ndim))
        with torch.enable_grad():
            if running_mean is not None:
                observed = self.cut(values).to(running_mean.dtype)
                var, mean = torch.var_mean(observed, dims, correction=1)
                self._follow(running_mean, mean.mean(0), momentum)
                self._follow(running_var, var.mean(0), momentum)
            if not self._primitive:
                return functional.instance_norm(values, weight=weight, bias=bias, eps=eps)
            var, mean = torch.var_mean(values, dims, correction=0, keepdim=True)
            normal = (values - mean) * (var + eps).rsqrt()
            return _scaled(normal, weight, bias)

    def _follow(self, running: Tensor | None, observed: Tensor, momentum: float) -> None:
        if running is None:
            return
        before = self.carried.get(id(running), running)
        after = (1.0 - momentum) * before + momentum * observed
        if id(running) in self.carried:
            self.carried[id(running)] = after
        else:
            running.copy_(after.detach())


_GRADIENT_ARGUMENTS = ("outputs", "inputs", "grad_outputs", "retain_graph", "create_graph")

_Form = Callable[..., Any]
_FORMS: dict[Any, _Form] = {
    Tensor.detach: DifferentiableForward._detach,
    torch.detach: DifferentiableForward._detach,
    Tensor.detach_: DifferentiableForward._detach_in_place,
    torch.detach_: DifferentiableForward._detach_in_place,
    Tensor.data.__get__: DifferentiableForward._detach,  # type: ignore[attr-defined]
    Tensor.data.__set__: DifferentiableForward._set_data,  # type: ignore[attr-defined]
    Tensor.requires_grad.__get__: DifferentiableForward._requires_grad,  # type: ignore[attr-defined]
    Tensor.requires_grad.__set__: DifferentiableForward._set_requires_grad,  # type: ignore[attr-defined]
    Tensor.requires_grad_: DifferentiableForward._set_requires_grad,
    Tensor.__deepcopy__: DifferentiableForward._deepcopy,
    Tensor.numpy: DifferentiableForward._numpy,
    Tensor.item: DifferentiableForward._item,
    Tensor.__float__: DifferentiableForward._float,
    Tensor.tolist: DifferentiableForward._tolist,
    Tensor.__array__: DifferentiableForward._array,
    Tensor.register_hook: DifferentiableForward._register_hook,
    Tensor.backward: DifferentiableForward._backward,
    torch.autograd.grad: DifferentiableForward._gradient,
    functional.scaled_dot_product_attention: DifferentiableForward._attention,
    torch._weight_norm: DifferentiableForward._weight_norm,
    torch.embedding: DifferentiableForward._embedding,
    **{
        quantize: partial(DifferentiableForward._fake_quantize, quantize=quantize)
        for quantize in (
            torch.fake_quantize_per_tensor_affine,
            torch.fake_quantize_per_channel_affine,
        )
    },
    functional.batch_norm: DifferentiableForward._batch_norm,
    functional.instance_norm: DifferentiableForward._instance_norm,
}
"""Operations that take another form, and what is called in their place."""


def _normalized(
    values: Tensor,
    mean: Tensor,
    var: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
) -> Tensor:
    shape = [1, -1, *[1] * (values.ndim - 2)]
    normal = (values - mean.view(shape)) * (var + eps).rsqrt().view(shape)
    return _scaled(normal, weight, bias).to(values.dtype)


def _scaled(normal: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    """weight × normal + bias, per channel."""
    shape = [1, -1, *[1] * (normal.ndim - 2)]
    if weight is not None:
        normal = normal * weight.view(shape)
    return normal if bias is None else normal + bias.view(shape)


def _enter_no_grad(context: torch.inference_mode) -> None:
    """Enters inference mode as no_grad: operations that it runs could record no graph at all."""
    context._inference_mode_context = torch.set_grad_enabled(not context.mode)  # type: ignore[assignment]


def _has_graph(tree: Any) -> bool:
    return any(isinstance(each, Tensor) and each.requires_grad for each in tree_leaves(tree))


@cache
def _writes(func: Any) -> bool:
    """Whether the operation writes into its first argument."""
    name = getattr(func, "__name__", "")
    in_place = name.endswith("_") and not name.endswith("__")
    return in_place or name in _WRITING


_WRITING = {"__setitem__"} | {
    f"__i{name}__"
    for name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "and", "or", "xor")
}


def _never(*tensors: Any) -> bool:
    return False


@cache
def _undispatched(function: FunctionType) -> FunctionType | None:
    """A Python function of torch that does not offer itself to a mode again, or None.

    A mode sees such a function as one operation. This copy lets it see the operations inside.
    """
    if function.__module__ not in ("torch.nn.functional", "torch.functional"):
        return None
    checks = ("has_torch_function", "has_torch_function_unary", "has_torch_function_variadic")
    found = {name: _never for name in checks if name in function.__code__.co_names}
    if not found:
        return None
    copy = FunctionType(
        function.__code__,
        {**function.__globals__, **found},
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy
