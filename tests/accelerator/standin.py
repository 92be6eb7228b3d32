"""A stand-in for an accelerator where there is none.

Its tensors say that they lie on ``standin:0``. They are computed on the CPU, by the CPU's own kernels, so that numbers
can be compared with the CPU's. They refuse what a CUDA tensor refuses: to be mixed with tensors of the CPU, to be read by
NumPy, to be drawn by a generator of the CPU. They count copies, and reads that a device would have to be waited for. With
``without_doubles`` they refuse float64 too, as Apple's GPUs do.

It cannot show what only a device has: kernels of its own (and which are missing), their rounding, TF32, speed, streams,
memory that runs out.

It rests on torch's Python backends for PrivateUse1 (torch.utils.backend_registration), of which there is one a process, and
it cannot be taken away again: use it in a process of its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import backend_registration
from torch.utils._pytree import tree_leaves, tree_map

NAME = "standin"
COUNTED: Counter[str] = Counter()
UP, DOWN, WAITS = "copies to the device", "copies to the CPU", "synchronisations"
HELD_UP = "copies to the device that are waited for"  # those without non_blocking
# Whose answer, or its size, is waited for.
WAITED = (
    *("aten::_local_scalar_dense", "aten::equal", "aten::nonzero", "aten::masked_select", "aten::bincount"),
    *("aten::_unique2", "aten::unique_dim", "aten::unique_consecutive", "aten::repeat_interleave"),
)
# What takes indices from the CPU for a tensor on a device.
INDEXED = ("aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_", "aten::_unsafe_index")
# What takes a number in a tensor of the CPU beside tensors of a device, and is no pointwise kernel by its tag.
SCALARS = ("aten::masked_fill", "aten::masked_fill_", "aten::fill_", "aten::index_fill_", *INDEXED)
_doubles = [True]
_to = torch.Tensor.to
_state = [torch.Generator().manual_seed(1).get_state()]  # of the device's own generator


class _Module:
    """What torch asks of the module of a device."""

    is_available = staticmethod(lambda: True)
    is_initialized = staticmethod(lambda: True)
    _is_in_bad_fork = staticmethod(lambda: False)
    current_device = staticmethod(lambda: 0)
    device_count = staticmethod(lambda: 1)
    synchronize = staticmethod(lambda *_args: None)
    get_rng_state = staticmethod(lambda device=0: _state[0].clone())
    get_rng_state_all = staticmethod(lambda: [_state[0].clone()])
    get_amp_supported_dtype = staticmethod(lambda: [torch.bfloat16, torch.float16])

    @staticmethod
    def set_rng_state(state: Tensor, device: Any = 0) -> None:
        _state[0] = state.clone()

    @staticmethod
    def set_rng_state_all(states: Sequence[Tensor]) -> None:
        _state[0] = states[0].clone()

    @staticmethod
    def manual_seed(seed: int) -> None:
        _state[0] = torch.Generator().manual_seed(seed).get_state()

    manual_seed_all = manual_seed


class OnDevice(torch.Tensor):
    """A tensor of the device; ``raw`` holds what is in it."""

    raw: Tensor

    @staticmethod
    def __new__(cls, raw: Tensor, requires_grad: bool = False) -> OnDevice:
        if raw.dtype == torch.float64 and not _doubles[0]:
            raise TypeError(f"{NAME} has no float64: convert to float32, or on the CPU")
        made: OnDevice = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            raw.size(),
            strides=raw.stride(),
            storage_offset=raw.storage_offset(),
            dtype=raw.dtype,
            layout=raw.layout,
            device=torch.device(NAME, 0),
            requires_grad=requires_grad,
        )
        made.raw = raw
        return made

    def tolist(self) -> Any:
        COUNTED[WAITS] += 1
        return self.raw.tolist()

    def numpy(self, **_how: Any) -> Any:
        raise TypeError(f"can't convert {NAME}:0 device type tensor to numpy: copy it to the CPU first")

    def __repr__(self, **_how: Any) -> str:  # type: ignore[override]
        return f"OnDevice({self.raw})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = dict(kwargs or {}), func._schema.name
        if name == "aten::copy_":
            return _copied(*args[:2], kwargs.get("non_blocking", args[2] if len(args) > 2 else False))
        if name == "aten::_to_copy":
            return _converted(args[0], kwargs)
        _refuse_mixing(func, name, args, kwargs)
        if name in WAITED or (name in INDEXED and _by_flags(args[1])):
            COUNTED[WAITS] += 1
        to_cpu = "device" in kwargs and kwargs["device"] is not None and torch.device(kwargs["device"]).type == "cpu"
        with _drawing() if torch.Tag.nondeterministic_seeded in func.tags else nullcontext():
            out = func(*tree_map(_raw, args), **tree_map(_raw, kwargs))
        if func._schema.is_mutable and any(
            x.raw.shape != x.shape for x in tree_leaves((args, kwargs)) if isinstance(x, cls)
        ):
            raise NotImplementedError(f"{name} has changed a tensor's size, which the stand-in cannot follow")
        if name.endswith("_") and isinstance(args[0], cls) and isinstance(out, Tensor):
            return args[0]
        return out if to_cpu else tree_map(_wrapped, out)


@contextmanager
def _drawing() -> Iterator[None]:
    """Draw from the device's generator, not from the CPU's."""
    cpu = torch.get_rng_state()
    torch.set_rng_state(_state[0])
    try:
        yield
    finally:
        _state[0] = torch.get_rng_state()
        torch.set_rng_state(cpu)


def _raw(x: Any) -> Any:
    if isinstance(x, torch.device) and x.type == NAME:
        return torch.device("cpu")
    return x.raw if isinstance(x, OnDevice) else x


def _wrapped(x: Any) -> Any:
    return OnDevice(x) if isinstance(x, Tensor) else x


def _by_flags(indices: Any) -> bool:
    """Whether some of a device's indices are flags, which are counted first to know how many numbers there will be."""
    return any(isinstance(x, OnDevice) and x.dtype in (torch.bool, torch.uint8) for x in indices)


def _copied(to: Tensor, source: Tensor, non_blocking: bool = False) -> Tensor:
    if isinstance(to, OnDevice) and not isinstance(source, OnDevice):
        _count_upload(non_blocking)
    elif isinstance(source, OnDevice) and not isinstance(to, OnDevice):
        COUNTED[DOWN] += 1
    _raw(to).copy_(_raw(source))
    return to


def _converted(x: Tensor, how: dict[str, Any]) -> Tensor:
    device = how.pop("device", None)
    out: Tensor = torch.ops.aten._to_copy(_raw(x), **how)
    if device is None or torch.device(device).type == NAME:
        return OnDevice(out)
    COUNTED[DOWN] += 1
    return out


def _refuse_mixing(func: Any, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """As CUDA does: a number in a tensor of the CPU may stand beside tensors of the device in pointwise kernels, but not
    where it is written to; indices may lie on the CPU, but not on a device for a tensor of the CPU."""
    loose = [x for x in tree_leaves((args, dict(kwargs))) if isinstance(x, Tensor) and not isinstance(x, OnDevice)]
    first = args[0] if args else None
    pointwise = torch.Tag.pointwise in func.tags or name in SCALARS
    written = isinstance(first, Tensor) and not isinstance(first, OnDevice) and func._schema.is_mutable
    if name in INDEXED and isinstance(first, OnDevice):
        loose = [x for x in loose if x.is_floating_point() or x.is_complex()]
    if written or any(x.dim() or not pointwise for x in loose):
        raise RuntimeError(f"{name}: expected all tensors to be on the same device, found cpu and {NAME}:0")
    drawn = [x for x in tree_leaves((args, dict(kwargs))) if isinstance(x, torch.Generator)]
    if drawn:
        raise RuntimeError(f"{name}: expected a {NAME!r} device type for generator but found 'cpu'")


def _count_upload(non_blocking: bool) -> None:
    COUNTED[UP] += 1
    if not non_blocking:
        COUNTED[HELD_UP] += 1


def _uploaded(x: Tensor, non_blocking: bool) -> OnDevice:
    _count_upload(non_blocking)
    return OnDevice(x.detach().clone())


class _Upload(torch.autograd.Function):
    """A copy of a tensor of the CPU on the device, gradient passed back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, non_blocking: bool) -> Tensor:  # type: ignore[override]
        return _uploaded(x, non_blocking)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        if isinstance(grad, OnDevice):
            COUNTED[DOWN] += 1
        return _raw(grad), None


def _is_ours(device: torch.device | None) -> bool:
    return device is not None and device.type == NAME


def _asked(args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[torch.device | None, torch.dtype | None, bool]:
    """The device and dtype that arguments of ``to`` name, and whether nothing waits for the copy."""
    other = kwargs.get("other", args[0] if args and isinstance(args[0], Tensor) else None)
    if isinstance(other, Tensor):
        return other.device, other.dtype, bool(kwargs.get("non_blocking", False))
    device, dtype, non_blocking = torch._C._nn._parse_to(*args, **{k: v for k, v in kwargs.items() if k != "copy"})[:3]
    return device, dtype, non_blocking


def _tensor_to(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    device, dtype, non_blocking = _asked(args, kwargs)
    if not _is_ours(device):
        return _to(self, *args, **kwargs)
    x = self
    if self.device.type != NAME:
        # Not through autograd where there is nothing for it: functorch's transforms do not take such functions.
        upload = _Upload.apply if self.requires_grad and torch.is_grad_enabled() else _uploaded
        x = upload(self, non_blocking)
    return x if dtype is None or dtype == x.dtype else _to(x, dtype)


def _module_to(self: nn.Module, *args: Any, **kwargs: Any) -> nn.Module:
    """torch puts other data into the same parameters where both kinds of tensors are alike, which these are not."""
    device, dtype, _ = _asked(args, kwargs)
    if not _is_ours(device):
        return _original_module_to(self, *args, **kwargs)
    done: dict[int, Tensor] = {}  # a weight that goes by two names stays one
    for module in self.modules():
        for table in (module._parameters, module._buffers):
            for name, value in list(table.items()):
                if value is not None:
                    done[id(value)] = table[name] = done.get(id(value), _there(value, dtype))  # type: ignore[assignment]
    return self


def _there(value: Tensor, dtype: torch.dtype | None) -> Tensor:
    wanted = value.dtype if dtype is None or not value.is_floating_point() else dtype
    if isinstance(value, OnDevice) and value.dtype == wanted:
        return value
    with torch.no_grad():
        new = _tensor_to(value.detach(), torch.device(NAME), wanted)
    return nn.Parameter(new, requires_grad=value.requires_grad) if isinstance(value, nn.Parameter) else new


_original_module_to = nn.Module.to


def install() -> None:
    """Make the device known to torch, in this process, for good."""
    # torch looks for what it is called, and has no name for the function that makes it without building C++.
    backend_registration._setup_privateuseone_for_python_backend(NAME, backend_module=_Module)
    library = torch.library.Library("aten", "IMPL")

    def empty(size: Any, dtype: Any = None, **_how: Any) -> Tensor:
        return OnDevice(torch.empty(size, dtype=dtype))

    def strided(size: Any, stride: Any, dtype: Any = None, **_how: Any) -> Tensor:
        return OnDevice(torch.empty_strided(size, stride, dtype=dtype))

    library.impl("empty.memory_format", empty, "PrivateUse1")

    def copy_from(
        source: Tensor, to: Tensor, non_blocking: bool = False
    ) -> Tensor:  # as torch.tensor(..., device=) does
        return _copied(to, source, non_blocking)

    library.impl("empty_strided", strided, "PrivateUse1")
    library.impl("_copy_from", copy_from, "PrivateUse1")
    for name, make in _factories().items():
        library.impl(name, make, "PrivateUse1")
    torch.Tensor.to = _tensor_to  # type: ignore[method-assign,assignment]
    nn.Module.to = _module_to  # type: ignore[method-assign,assignment]
    _kept.append(library)


def _factories() -> dict[str, Any]:
    """What torch makes of an empty tensor that grows, as these cannot."""

    def plain(make: Any) -> Any:
        return lambda *args, dtype=None, layout=None, device=None, pin_memory=None: OnDevice(make(*args, dtype=dtype))

    found = {name: plain(torch.arange) for name in ("arange", "arange.start", "arange.start_step")}
    return found | {"linspace": plain(torch.linspace), "eye": plain(torch.eye), "eye.m": plain(torch.eye)}


_kept: list[Any] = []  # a library's kernels go when it goes


@contextmanager
def without_doubles() -> Iterator[None]:
    """Refuse float64 on the device."""
    _doubles[0] = False
    try:
        yield
    finally:
        _doubles[0] = True
