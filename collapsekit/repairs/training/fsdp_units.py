"""Which submodules' weights may be gathered for their own calls only: seen in runs of a stage's loss, not assumed.

FSDP gathers a unit's weights before its forward, frees them behind it, and does so again around its backward pass, which
begins where a gradient reaches what the unit returned. A unit is therefore a module that is called exactly once a run and
always in the same order, whose weights are used nowhere else, and of which nothing but what it returns leads out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from collapsekit.adapters.build import preserve_rng_state
from collapsekit.adapters.live.preserve import preserve_model
from collapsekit.repairs.training.job import Stage, Step

UNIT = 2**20  # weights a unit has at least; what is smaller is gathered with what holds it


def units_of(stage: Stage, rows: Tensor, shared: Collection[nn.Parameter]) -> list[nn.Module]:
    """Find the units of a stage, in the order of their calls. The module is given back as it was.

    Args:
        stage: The stage; its loss is run once for each epoch of its cycle.
        rows: Training rows (n,) to run the loss on.
        shared: The parameters that are to be shared out.

    Returns:
        The units; none where the loss fails, which training shows, or where their order is not always the same.
    """
    seen = _Seen(stage.module)
    try:
        with preserve_rng_state(), preserve_model(stage.module), torch.enable_grad():
            stage.module.train()
            for epoch in range(1, stage.cycle + 1):
                with seen.watching(), seen:
                    stage.loss(Step(rows, epoch))
                seen.judge()
    except Exception:  # noqa: BLE001 - of the model's own, or because it cannot be watched
        return []
    chosen = set(_chosen(stage.module, seen.fit(), shared))
    orders = [[m for m in order if m in chosen] for order in seen.orders]
    return orders[0] if all(order == orders[0] for order in orders) else []


def _chosen(whole: nn.Module, fit: Collection[nn.Module], shared: Collection[nn.Parameter]) -> Iterator[nn.Module]:
    """Modules among ``fit`` with at least UNIT weights that no smaller one has; whose weights are registered nowhere
    else."""
    wanted, taken = {id(p) for p in shared}, set[int]()
    everywhere = Counter(id(p) for part in whole.modules() for p in part._parameters.values())
    for module in reversed(list(whole.modules())):  # what is inside before what holds it
        within = Counter(id(p) for part in module.modules() for p in part._parameters.values())
        own = {id(p): p.numel() for p in module.parameters() if id(p) in wanted and id(p) not in taken}
        alone = all(within[p] == everywhere[p] for p in own)
        if module in fit and module is not whole and alone and sum(own.values()) >= UNIT:
            taken |= own.keys()
            yield module


class _Seen(TorchDispatchMode):
    """Sees every operation below autograd, and who is running while it is done."""

    def __init__(self, whole: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.modules = [m for m in whole.modules() if not isinstance(m, torch.jit.ScriptModule)]
        self.holders: dict[int, list[nn.Module]] = {}  # by parameter
        for module in self.modules:
            for parameter in module.parameters():
                self.holders.setdefault(id(parameter), []).append(module)
        self.orders: list[list[nn.Module]] = []  # of a run each
        self.unfit: set[nn.Module] = set()
        self._begin()

    def _begin(self) -> None:
        self.order: list[nn.Module] = []
        self.called, self.ended = Counter[nn.Module](), Counter[nn.Module]()
        self.running: list[nn.Module] = []
        self.made: dict[int, tuple[Tensor, tuple[nn.Module, ...]]] = {}  # held, so that no other gets its id
        self.returned: dict[int, set[nn.Module]] = {}

    def fit(self) -> set[nn.Module]:
        """The modules that may be units."""
        return set(self.modules) - self.unfit

    def judge(self) -> None:
        """At the end of a run."""
        counts = Counter(self.order)
        once = {m for m in self.modules if counts[m] == self.called[m] == self.ended[m] == 1}
        self.unfit |= set(self.modules) - once
        self.orders.append(self.order)
        self._begin()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Know who is running; within ``preserve_model``, which takes the forwards away that are set here."""
        for module in self.modules:
            module.__dict__["forward"] = self._forward(module, vars(module).get("forward", module.forward))
        handle = register_module_forward_pre_hook(lambda module, _: self.called.update([module]))
        try:
            yield
        finally:
            handle.remove()

    def _forward(self, module: nn.Module, plain: Callable[..., Any]) -> Callable[..., Any]:
        plain = getattr(plain, "unwatched", plain)

        def forward(*args: Any, **kwargs: Any) -> Any:
            self.order.append(module)
            self.running.append(module)
            try:
                out = plain(*args, **kwargs)
            finally:
                self.running.pop()
            self.ended[module] += 1
            self._returned(module, out)
            return out

        forward.unwatched = plain  # type: ignore[attr-defined]
        return forward

    def _returned(self, module: nn.Module, out: Any) -> None:
        """What is written into a view loses the hooks by which FSDP hears of a gradient; tensors in objects that torch does
        not look into would have none, and count as leading out."""
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self.returned.setdefault(id(leaf), set()).add(module)
                self.made.setdefault(id(leaf), (leaf, ()))
                if leaf._base is not None and leaf.requires_grad:
                    self.unfit.add(module)

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        running = tuple(self.running)
        for value in tree_leaves((args, kwargs)):
            if isinstance(value, Tensor):
                self._used(value, running)
        out = func(*args, **(kwargs or {}))
        for value in tree_leaves(out):
            if isinstance(value, Tensor):
                self.made.setdefault(id(value), (value, running))
        return out

    def _used(self, value: Tensor, running: tuple[nn.Module, ...]) -> None:
        """A weight outside of a module that holds it, or what a module computed, other than what it returned, outside of
        that module, makes it unfit."""
        self.unfit.update(m for m in self.holders.get(id(value), ()) if m not in running)
        if not value.requires_grad or id(value) in self.holders:
            return
        _, makers = self.made.get(id(value), (value, ()))
        known = self.returned.get(id(value), set())
        self.unfit.update(m for m in makers if m not in running and m not in known)
