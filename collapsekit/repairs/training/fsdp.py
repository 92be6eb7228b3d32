"""Training with fully_shard: of the weights a stage trains, their gradients, the optimiser's moments and the copies that are
kept, each process holds its share; what is needed to compute is gathered for as long.

What a method runs is no single module's forward, so the loss is made one: the root unit holds the stage's module, and its
forward is a run of the loss. Inside it lie the units of ``units_of``. When a stage is over its module is given back as it
was: torch has no way to undo fully_shard.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache, partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from collapsekit.config.options import Training
from collapsekit.distributed.process_group import ProcessGroup, current
from collapsekit.errors import ConfigError
from collapsekit.io.shards import Rows
from collapsekit.io.transfer import named_to_cpu
from collapsekit.repairs.training.data_parallel import Whole, summed
from collapsekit.repairs.training.fsdp_units import units_of
from collapsekit.repairs.training.job import Job, Stage, Step
from collapsekit.repairs.training.snapshots import Snapshots
from collapsekit.user_code.frames import one_line

T = TypeVar("T")
ROWS = 4  # of the runs that show which submodules may be units


def lay_out(stage: Stage, job: Job) -> Whole:
    """Return the weights of a stage as the job's training asks for them; where nothing is trained, whole.

    Raises ConfigError where they cannot be sharded.
    """
    shared = job.training.fsdp and stage.fit is None
    return Sharded(stage, job, current()) if shared else Whole(stage, current())


def need_shardable(how: Training, device: str, world: ProcessGroup) -> None:
    """Raise ConfigError where ``fsdp`` is asked for and cannot be.

    Args:
        how: The settings of training.
        device: The name of this process's device.
        world: The processes.

    Raises:
        ConfigError: For one process, ``compile``, another device than cpu and cuda, or too old a torch.
    """
    if not how.fsdp:
        return
    if world.size == 1:
        raise ConfigError(
            "--fsdp shares the weights out among several processes, and this is one alone: start it with torchrun "
            "--nproc-per-node N -m collapsekit repair ..., or leave out --fsdp."
        )
    if how.compile:
        raise ConfigError("--fsdp with --compile is not tried, and so not offered: leave out one of them.")
    if torch.device(device).type not in ("cpu", "cuda"):
        raise ConfigError(
            f"--fsdp works on cpu and cuda, and --device is {device}: name one of these, or leave it out."
        )
    from torch.distributed.fsdp import FSDPModule

    if not all(hasattr(FSDPModule, name) for name in ("set_reduce_scatter_unused_params", "reset_iter_state")):
        raise ConfigError(
            f"--fsdp needs a newer torch (2.13 is what it is tested with), and this is {torch.__version__}: upgrade it, or "
            "leave out --fsdp."
        )


class Sharded(Whole):
    """A stage's weights in shares: ``parameters`` are DTensors. What has no rows to share out, or another precision than
    the first, stays whole, and so do buffers and weights that are not trained."""

    def __init__(self, stage: Stage, job: Job, world: ProcessGroup) -> None:
        super().__init__(stage, world)
        need_shardable(job.training, job.adapter.device.type, world)
        registered = [(m, n, p) for m in stage.module.modules() for n, p in m._parameters.items() if p is not None]
        inside = {id(p) for _, _, p in registered}
        self.given = [p for p in stage.parameters if id(p) in inside and _shareable(p, stage.parameters)]
        shared = {id(p) for p in self.given}
        self.places = [(m, name, p) for m, name, p in registered if id(p) in shared]
        self.units = units_of(stage, job.at.fit[:ROWS], self.given)
        self.names = {m: name for name, m in stage.module.named_modules()}
        world.assert_same([self.names[unit] for unit in self.units], "submodules to shard")
        self.expected: Iterator[nn.Module] | None = None
        before = [(m, type(m), set(vars(m))) for m in stage.module.modules()]
        self.root = _Root(stage.module)
        try:
            self._shard(job.adapter.device, [p for _, _, p in registered if id(p) not in shared])
        except Exception as e:
            raise ConfigError(
                f"--fsdp: the weights of {stage.name} cannot be shared out ({one_line(e)}): leave out --fsdp."
            ) from e
        self.changed = [(m, kind, vars(m).keys() - known) for m, kind, known in before]
        self.guards = [unit.register_forward_pre_hook(self._in_order, prepend=True) for unit in self.units]
        now = {id(p): getattr(m, name) for m, name, p in self.places}
        self.shares: list[Any] = [now[id(p)] for p in self.given]
        self.parameters = [now.get(id(p), p) for p in stage.parameters]
        self.kept = [p for p in stage.parameters if id(p) not in shared]
        self.reached: set[int] = set()
        self._listen()
        for p in self.given:  # let go of; NaN, so that who still reads them hears of it
            p.data = torch.full((), torch.nan, dtype=p.dtype, device=p.device).expand(p.shape)

    def _shard(self, device: torch.device, ignored: Sequence[nn.Parameter]) -> None:
        from torch.distributed.fsdp import fully_shard

        if device.type == "cuda":
            torch.cuda.set_device(device)
        mesh = _mesh(self.world, device.type)
        inner = [m for m in reversed(list(self.stage.module.modules())) if m in self.units]
        self.sharded: list[Any] = [
            fully_shard(m, mesh=mesh, reshard_after_forward=m is not self.root, ignored_params=set(ignored))
            for m in (*inner, self.root)
        ]
        for unit in self.sharded:
            unit.set_gradient_divide_factor(1.0)  # losses are weighted by their shares of the batch
            unit.set_force_sum_reduction_for_comms(True)
            unit.set_reduce_scatter_unused_params(True, recurse=False)
        self.root(lambda: None)  # now all of them know their root
        self._free()

    def _listen(self) -> None:
        """Note whose gradients are reached; of the others FSDP makes zeros, which an optimiser takes for gradients."""

        def reached(_: Tensor, *, number: int) -> None:
            self.reached.add(number)

        with self._unsharded():
            now = {id(p): getattr(m, name) for m, name, p in self.places}
            self.leaves = [now[id(p)] for p in self.given]
        for number, leaf in enumerate(self.leaves):
            leaf.register_post_accumulate_grad_hook(partial(reached, number=number))

    def _free(self) -> None:
        """Let go of what is whole, and of FSDP's record of forwards, which it gathers by: processes differ in how many they
        made of the held-out examples."""
        self.sharded[-1].reset_iter_state()  # the root's

    @contextmanager
    def _unsharded(self) -> Iterator[None]:
        """All weights whole for a while, and no process needs the others for a forward pass."""
        for unit in self.sharded:
            unit.set_reshard_after_forward(False, recurse=False)
            unit.unshard()
        yield
        for unit in self.sharded:
            unit.set_reshard_after_forward(unit is not self.root, recurse=False)
        self._free()

    def _in_order(self, unit: nn.Module, _: Any) -> None:
        """Raises ConfigError where a unit is not the next in turn: the others would wait for another one's weights."""
        if self.expected is not None and (wanted := next(self.expected, None)) is not unit:
            raise self._astray(self.names[unit], wanted)

    def _astray(self, found: str, wanted: nn.Module | None) -> ConfigError:
        known = "the end" if wanted is None else repr(self.names[wanted])
        return ConfigError(
            f"--fsdp: the model runs {found!r} where it ran {known} before, and shares can only be gathered where all "
            "processes run the same submodules in the same order: leave out --fsdp."
        )

    def loss(self, step: Step) -> Tensor:
        self.expected = iter(self.units)
        loss: Tensor = self.root(partial(self.stage.loss, step))
        if (left := next(self.expected, None)) is not None:
            raise self._astray("the end", left)
        self.expected = None
        return loss

    def anywhere(self, failed: bool) -> bool:
        if given_up := bool(summed([], [float(failed)], self.world)[0]):
            self._free()
        return given_up

    def backward(self, loss: Tensor) -> None:
        torch.autograd.backward([loss], inputs=[*self.leaves, *self.kept])

    def summed(self, numbers: Sequence[float]) -> list[float]:
        flags = [float(i in self.reached) for i in range(len(self.shares))]
        told = summed(self.kept, [*numbers, *flags], self.world)
        self.reached.clear()
        for share, reached in zip(self.shares, told[len(numbers) :], strict=True):
            if not reached:
                share.grad = None
        return told[: len(numbers)]

    @torch.no_grad()
    def clip(self, most: float) -> Tensor:
        shares = [p.grad.to_local() for p in self.shares if p.grad is not None]
        whole = [p.grad for p in self.kept if p.grad is not None]
        own, same = (float(torch.nn.utils.get_total_norm(part)) if part else 0.0 for part in (shares, whole))
        norm = math.sqrt(summed([], [own * own], self.world)[0] + same * same)
        for grad in (*shares, *whole):
            grad.mul_(min(1.0, most / (norm + 1e-6)))
        return torch.tensor(norm, dtype=torch.float64)

    def held(self) -> float:
        with self._unsharded():
            return super().held()

    def save(self, kept: Snapshots, number: int, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
        if kept.seen_by_all():
            kept.save_shares(number, self._held_rows(tensors), about)
            return
        out = {}
        for name, value in tensors.items():  # one after the other: of each there is a whole copy for a moment
            whole = _full(value)
            if self.world.is_main:
                out[name] = whole.cpu()
        kept.save(number, out, about)

    def load(self, kept: Snapshots, number: int) -> tuple[Mapping[str, Tensor], dict[str, Any]] | None:
        from torch.distributed.tensor import DTensor

        found = kept.load_shares(number, self._rows)
        if found is None:
            return None
        out = {}
        for name, value in found[0].items():
            like = self._like(name)
            if isinstance(like, DTensor) and value.ndim == like.ndim:  # not the number of steps
                value = DTensor.from_local(
                    value.to(like.device),
                    like.device_mesh,
                    like.placements,
                    run_check=False,
                    shape=like.shape,
                    stride=like.stride(),
                )
            out[name] = value
        return out, found[1]

    def _held_rows(self, tensors: Mapping[str, Tensor]) -> dict[str, Rows]:
        """The rows that this process holds; of what is whole, on the first one."""
        from torch.distributed.tensor import DTensor

        sharded = {k: v for k, v in tensors.items() if isinstance(v, DTensor)}
        local = {k: v.to_local() for k, v in sharded.items()}
        local |= {k: v for k, v in tensors.items() if k not in sharded and self.world.is_main}
        return {
            k: Rows(v, _range(len(tensors[k]), self.world)[0] if k in sharded else 0, tuple(tensors[k].shape))
            for k, v in named_to_cpu(local).items()
        }

    def _rows(self, name: str, shape: tuple[int, ...]) -> tuple[int, int] | None:
        """Which rows of a snapshot's tensor this process is to hold; None: all."""
        from torch.distributed.tensor import DTensor

        like = self._like(name)
        return _range(shape[0], self.world) if isinstance(like, DTensor) and shape == tuple(like.shape) else None

    def _like(self, name: str) -> Tensor:
        """The weight that a snapshot's tensor is, or is about."""
        part, _, key = name.partition("/")
        weights: Mapping[str, Tensor] = self.stage.module.state_dict()
        return self.parameters[int(key.partition(".")[0])] if part == "optimizer" else weights[key]

    def finish(self) -> None:
        super().finish()
        for p, share in zip(self.given, self.shares, strict=True):
            p.data = _full(share.detach())
        for guard in self.guards:
            guard.remove()
        for module, kind, added in self.changed:
            _undo(module, kind, added)
        for module, name, p in self.places:
            setattr(module, name, p)  # some modules keep lists of their weights


class _Root(nn.Module):
    """Whose forward is whatever is run."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, run: Callable[[], T]) -> T:
        return run()


def _range(rows: int, world: ProcessGroup) -> tuple[int, int]:
    """From which row to before which this process holds so many: as torch.chunk parts them."""
    each = -(-rows // world.size)
    return min(world.rank * each, rows), min((world.rank + 1) * each, rows)


def _shareable(parameter: nn.Parameter, among: Sequence[nn.Parameter]) -> bool:
    """Whether FSDP shards it: by rows, and all in one precision."""
    first = next((p.dtype for p in among if p.ndim), None)
    return bool(parameter.ndim and parameter.numel() and parameter.is_contiguous() and parameter.dtype == first)


@lru_cache(maxsize=1)
def _mesh(world: ProcessGroup, kind: str) -> Any:
    """All processes in a row; on CUDA they speak through NCCL."""
    import torch.distributed as dist
    from torch.distributed.device_mesh import DeviceMesh

    group = dist.new_group(backend="nccl") if kind == "cuda" else dist.group.WORLD
    assert group is not None
    return DeviceMesh.from_group(group, kind)


def _full(value: Tensor) -> Tensor:
    from torch.distributed.tensor import DTensor

    return value.full_tensor() if isinstance(value, DTensor) else value


def _undo(module: nn.Module, kind: type[nn.Module], added: Collection[str]) -> None:
    """Take away what fully_shard made of a module: its class, its hooks, what is noted on it and about it."""
    from torch.distributed._composable_state import _module_state_mapping

    _module_state_mapping.pop(module, None)
    module.__class__ = kind
    for name in added:
        vars(module).pop(name, None)
    hooks = [held for name, held in vars(module).items() if "_hooks" in name and isinstance(held, dict)]
    ours = {number for held in hooks for number, hook in held.items() if _of_fsdp(hook)}
    for held in hooks:
        for number in ours:
            held.pop(number, None)


def _of_fsdp(hook: object) -> bool:
    return str(getattr(hook, "__module__", "")).startswith("torch.distributed.fsdp.")
