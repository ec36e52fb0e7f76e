"""Fake device: tensors that report `cuda:0`, compute on the CPU, and cannot be mixed with CPU tensors.

`TILLER_TEST_DEVICE=pretended pytest tests/server` finds on a laptop what would end a request on a GPU: a
tensor created without a device. It models neither the speed nor the rounding of a GPU.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._device import _device_constructors
from torch.utils._pytree import tree_leaves, tree_map

PLACE = torch.device("cuda:0")
FACTORIES = [
    "tensor",
    "zeros",
    "ones",
    "full",
    "arange",
    "empty",
    "linspace",
    "eye",
    "rand",
    "randn",
    "randint",
    "randperm",
    "as_tensor",
    "scalar_tensor",
]
MIXES = {"copy_", "_to_copy", "index", "index_put_", "index_put", "_index_put_impl_"}
"""Operations that accept CPU tensors beside GPU tensors: copies, and indices."""
_to, _module_to, _cpu = Tensor.to, nn.Module.to, torch.device("cpu")


class Pretended(Tensor):
    """A tensor of the fake device; `held` is the real CPU tensor."""

    held: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl  # pyright: ignore[reportAttributeAccessIssue]
    device = property(lambda _: PLACE)  # pyright: ignore[reportAssignmentType, reportIncompatibleVariableOverride]
    is_cuda = property(lambda _: True)  # pyright: ignore[reportAssignmentType, reportIncompatibleVariableOverride]
    is_cpu = property(lambda _: False)  # pyright: ignore[reportAssignmentType, reportIncompatibleVariableOverride]

    @staticmethod
    def __new__(cls, held: Tensor, requires_grad: bool = False) -> "Pretended":
        """Wrap `held` as a tensor of the fake device."""
        like = {"strides": held.stride(), "storage_offset": held.storage_offset(), "dtype": held.dtype}
        made = Tensor._make_wrapper_subclass(cls, held.size(), **like, requires_grad=requires_grad)
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> object:
        """Run the operation on the CPU, if all its tensors are on the fake device."""
        name, kwargs = func.overloadpacket.__name__, dict(kwargs or {})
        strangers = [
            t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor) and not isinstance(t, Pretended) and t.dim()
        ]
        if strangers and (name not in MIXES or (name.startswith("index_put") and strangers[-1] is args[2])):
            raise RuntimeError(
                f"expected all tensors to be on the same device: {func} of one on the CPU, {[*strangers[0].shape]}"
            )
        place = kwargs.get("device")
        if place is not None and torch.device(place).type == "cuda":
            kwargs["device"] = _cpu
        done = func(*tree_map(_held, args), **tree_map(_held, kwargs))
        if place is not None and torch.device(place).type == "cpu":
            return done
        return args[0] if name.endswith("_") and name[-2:] != "__" else tree_map(_there, done)

    def to(self, *args: Any, **kwargs: Any) -> Tensor:
        """Convert the dtype, or copy to the CPU."""
        place, kind = _wanted(args, kwargs)
        moved = self if kind is None or kind == self.dtype else _to(self, kind)
        return moved if place is None or place.type == "cuda" else moved.detach().held.clone()  # pyright: ignore[reportAttributeAccessIssue]

    def cpu(self) -> Tensor:
        """Copy to the CPU."""
        return self.to(_cpu)

    def tolist(self) -> Any:
        """Return the values as Python numbers."""
        return self.held.tolist()

    def numpy(self, *, force: bool = False) -> Any:
        """Raises TypeError, as on a GPU."""
        if not force:
            raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first")
        return self.held.numpy()

    def __array__(self, *_: object) -> object:
        return self.numpy()

    def __repr__(self) -> str:
        return f"Pretended({self.held})"

    def __deepcopy__(self, memo: object) -> "Pretended":
        return Pretended(self.held.clone(), self.requires_grad)


def pretend() -> None:
    """Register the fake device in this process."""
    _device_constructors()  # keeps the real functions, which `with torch.device(…)` looks up
    for name in FACTORIES:
        setattr(torch, name, _factory(getattr(torch, name)))
    Tensor.to = _to_there  # pyright: ignore[reportAttributeAccessIssue]
    nn.Module.to = _module_there  # pyright: ignore[reportAttributeAccessIssue]
    torch.cuda.synchronize = lambda *_: None
    # Views of wrapper tensors cannot be written in inference mode.
    torch.inference_mode = lambda mode=True: torch.no_grad() if mode else torch.enable_grad()  # pyright: ignore[reportAttributeAccessIssue]


def _factory(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    @wraps(make)
    def made(*args: Any, **kwargs: Any) -> Tensor:
        if isinstance(args[0] if args else None, Pretended):  # as_tensor of one
            return args[0]
        place = kwargs.get("device")
        if place is None or torch.device(place).type != "cuda":
            return make(*args, **kwargs)
        return Pretended(make(*args, **kwargs | {"device": _cpu}))

    return made


def _to_there(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    place, kind = _wanted(args, kwargs)
    if place is None or place.type != "cuda":
        return _to(self, *args, **kwargs)
    return Pretended((_to(self, kind) if kind else self).detach().clone())


def _module_there(self: nn.Module, *args: Any, **kwargs: Any) -> nn.Module:
    place, _ = _wanted(args, kwargs)
    if place is None or place.type != "cuda":
        return _module_to(self, *args, **kwargs)
    for module in self.modules():
        for name, p in module._parameters.items():
            if p is not None:
                module._parameters[name] = nn.Parameter(p.data.to(*args, **kwargs), requires_grad=p.requires_grad)
        for name, b in module._buffers.items():
            if b is not None:
                module._buffers[name] = b.to(PLACE)
    return self


def _wanted(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[torch.device | None, torch.dtype | None]:
    place, kind = kwargs.get("device"), kwargs.get("dtype")
    for one in args:
        if isinstance(one, Tensor):
            place, kind = one.device, one.dtype
        elif isinstance(one, torch.dtype):
            kind = one
        elif isinstance(one, str | torch.device):
            place = one
    return torch.device(place) if place is not None else None, kind


def _held(x: object) -> object:
    return x.held if isinstance(x, Pretended) else x


def _there(x: object) -> object:
    return Pretended(x) if isinstance(x, Tensor) and not isinstance(x, Pretended) else x
