"""What a repair puts into a user's model, in plain PyTorch: this file alone is needed where a repaired model runs.

A structure is a list of records, as repair.json holds them: heads h·h⁻¹ behind encoders ("basis", Chaudhuri et al. 2025,
section 3.4), blends of channels between encoders ("exchange", Kim et al. 2025), and readouts beside encoders whose evidence
is added to the model's output ("late", stacking after Wolpert 1992). Each stands in the encoder's place.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def insert(model: nn.Module, structure: Sequence[Mapping[str, Any]]) -> nn.Module:
    """Put a structure's modules into ``model``, in place; what is there already stays. Hooks that change what the model is
    given have to be on it before. Raises ValueError for a record that does not fit the model."""
    for kind, make in (("basis", BasisHead), ("exchange", ChannelExchange)):
        records = [r for r in structure if r["kind"] == kind]
        if not records or junction_of(model, kind) is not None:
            continue
        if not all(r["path"] for r in records):
            raise ValueError("a record names no encoder")
        junction = EncoderBarrier(kind, [r["modality"] for r in records])
        for record in records:
            place = record["path"]
            outer = model.get_submodule(place)
            if kind == "basis" and isinstance(outer, WrappedEncoder):  # an exchange was there first: it stays outermost
                place, outer = f"{place}.encoder", outer.encoder
            made: nn.Module = make(record, [r["modality"] for r in records if r["modality"] != record["modality"]])
            like = next((p for p in (*outer.parameters(), *model.parameters()) if p.is_floating_point()), None)
            parent, _, name = place.rpartition(".")
            post = WrappedEncoder(outer, made if like is None else made.to(like), junction, record).train(
                outer.training
            )
            setattr(model.get_submodule(parent), name, post)
        model.register_forward_pre_hook(junction.before, with_kwargs=True)
        model.register_forward_hook(junction.after, with_kwargs=True, always_call=True)
    _insert_late(model, [r for r in structure if r["kind"] == "late"])
    hooks, last = model._forward_pre_hooks, junction_of(model, "exchange")
    for number, hook in list(hooks.items()):
        if last is not None and getattr(hook, "__self__", None) is last:  # after what stands behind the encoders
            hooks[number] = hooks.pop(number)
    return model


def inserted_in(model: nn.Module) -> list[dict[str, Any]]:
    """List the records of what was inserted into ``model``, in their order."""
    found = [posts_of(model, kind) for kind in ("basis", "exchange", "late")]
    return [posts[m].record for posts in found for p in list(posts.values())[:1] for m in p.junction.names]


def posts_of(model: nn.Module, kind: str) -> dict[str, WrappedEncoder]:
    """Find what was inserted of a kind, by modality."""
    return {
        p.record["modality"]: p for p in model.modules() if isinstance(p, WrappedEncoder) and p.junction.kind == kind
    }


def junction_of(model: nn.Module, kind: str) -> Any:
    """Find the junction of a kind of insert; None where there is none."""
    return next((p.junction for p in posts_of(model, kind).values()), None)


class BasisHead(nn.Module):
    """h and h⁻¹, two-layer perceptrons. As made, h⁻¹(h(z)) is z: relu(z) - relu(-z) = z on the first coordinates of the
    latent space, and what else the heads hold is random and not read yet."""

    order: Tensor  # numbers of the other modalities, the first choice to stand in for this one first

    def __init__(self, record: Mapping[str, Any], others: Sequence[str]) -> None:
        super().__init__()
        features, latent, hidden = record["features"], record["latent"], record["hidden"]
        if latent < features or hidden < 2 * latent:
            raise ValueError(f"a latent width of {latent} and {hidden} hidden units cannot hold {features} features")
        self.others = tuple(others)
        self.h = nn.Sequential(nn.Linear(features, hidden), nn.ReLU(), nn.Linear(hidden, latent))
        self.back = nn.Sequential(nn.Linear(latent, hidden), nn.ReLU(), nn.Linear(hidden, features))
        with torch.no_grad():
            for first, _, last in (self.h, self.back):
                _pass_on(first, last, features)
        self.register_buffer("order", torch.arange(len(self.others)))
        self._read: tuple[Tensor, int, list[int]] | None = None  # ``order``, at which version, and what it says

    def choices(self) -> list[int]:
        """Return numbers of ``others``, the first choice first; the buffer is read where it is another or was changed."""
        version = -1 if self.order.is_inference() else self.order._version  # those do not count their changes
        if self._read is None or version < 0 or self._read[0] is not self.order or self._read[1] != version:
            said = self.order.clamp(0, len(self.others) - 1).tolist()  # a file may hold anything
            self._read = self.order, version, said
        return self._read[2]

    def forward(self, z: Tensor) -> Tensor:
        """Map features ``z`` (n, ..., d) into the latent space and back, (n, ..., d)."""
        out: Tensor = self.back(self.h(z))
        return out


def _pass_on(first: Any, last: Any, width: int) -> None:
    """Let ``last(relu(first(x)))`` begin with the first ``width`` coordinates of x; further outputs stay random."""
    eye = torch.eye(width, dtype=first.weight.dtype, device=first.weight.device)
    first.weight[: 2 * width] = 0
    first.weight[:width, :width], first.weight[width : 2 * width, :width] = eye, -eye
    last.weight[:width] = 0
    last.weight[:width, :width], last.weight[:width, width : 2 * width] = eye, -eye
    first.bias[: 2 * width], last.bias[:width] = 0, 0


class ChannelExchange(nn.Module):
    """Channels ``receiving`` of one modality, each a blend with a channel of another's: (1 - α)·own + α·other, α in (0, 1)
    learned, one a channel; where widths differ the other's channels are a linear map of all of its own. With ``each`` they
    are blended only in examples in which they are among so many that move least from position to position."""

    receiving: Tensor  # may be none: of a modality that only gives
    source: Tensor
    steep = 10.0  # of the sigmoid that is α: few steps at a rate that suits the model would not move it otherwise

    def __init__(self, record: Mapping[str, Any], others: Sequence[str]) -> None:
        super().__init__()
        to, source, width, given = record["to"], record["source"], record["features"], record["given"]
        paired = len(set(to)) == len(to) == len(source) and {*to, *source} <= set(range(width))
        if record["giver"] not in others or not paired or not 0 < record["blend"] < 1:
            raise ValueError(f"{record['modality']} cannot get channels {list(source)} of {record['giver']!r}")
        self.giver, self.each = str(record["giver"]), record.get("each")
        self.register_buffer("receiving", torch.tensor(to, dtype=torch.long))
        self.register_buffer("source", torch.tensor(source, dtype=torch.long))
        self.project = nn.Linear(given, width) if given != width and len(to) else None
        self.blend = nn.Parameter(torch.full((len(to),), record["blend"]).logit() / self.steep)

    def alpha(self) -> Tensor:
        """Compute the share of the other modality's channel in each channel that receives: (channels,), in (0, 1)."""
        return (self.steep * self.blend).sigmoid()

    def given(self, own: Tensor, other: Tensor) -> Tensor:
        """Compute what is blended in at the positions of ``own`` (n, ..., d): of ``other`` (n, ..., e), a channel for
        each that receives.
        """
        return _at(other if self.project is None else self.project(other), own)[..., self.source]

    def chosen(self, mine: Tensor) -> Tensor:
        """Mark in each example the ``each`` channels of the lowest energy, the mean over positions of (x - mean)².

        Args:
            mine: the channels that may receive, (n, ..., c).

        Returns:
            1 where a channel is among them, else 0, (n, 1, ..., c); of channels within a millionth of the largest energy
            of each other the first.
        """
        x = mine.detach().double().flatten(1, -2)
        energy = (x - x.mean(1, keepdim=True)).square().mean(1)
        steps = energy / energy.amax(1, keepdim=True).clamp_min(1e-300) / 1e-6
        lowest = steps.round().argsort(dim=1, stable=True)[:, : self.each]
        marked = torch.zeros_like(energy).scatter(1, lowest, 1.0).to(mine.dtype)
        return marked.reshape(len(mine), *[1] * (mine.ndim - 2), mine.shape[-1])

    def forward(self, own: Tensor, other: Tensor) -> Tensor:
        """Blend channels of ``other`` (n, ..., e) into those of ``own`` (n, ..., d) that receive; the rest stay, (n,
        ..., d).
        """
        if not len(self.receiving):
            return own
        mine, alpha = own[..., self.receiving], self.alpha()
        if self.each is not None:
            alpha = alpha * self.chosen(mine)
        return own.index_copy(-1, self.receiving, (mine + alpha * (self.given(own, other) - mine)).to(own.dtype))


class _Gathered(BaseException):
    """Every encoder has run; not an Exception, so that models do not swallow it."""


class EncoderBarrier:
    """Where inserts read one another's encoders: a forward pass is stopped once every encoder has run, what they gave is
    mixed, and the pass is begun anew with the answers in the encoders' places. Each encoder runs once; what the model does
    before its last encoder runs twice."""

    def __init__(self, kind: str, names: Sequence[str]) -> None:
        self.kind, self.names = kind, tuple(names)
        self.phase: Literal["gather"] | None = None
        self.given: dict[str, Any] = {}
        self.answers: dict[str, Any] = {}
        self.absent: dict[str, Tensor] = {}
        self.heard: dict[str, Tensor] | None = None

    def needed(self) -> bool:
        """Tell whether one modality's answer depends on another's encoder."""
        return self.kind == "exchange" or bool(self.absent)

    def before(self, model: nn.Module, args: Any, kwargs: Any) -> None:
        """Run the model until every encoder has run, and mix what they gave. It is the model's forward pre-hook.

        Args:
            model: that the inserts are in.
            args: of its forward, by position.
            kwargs: of its forward, by name.

        Raises:
            RuntimeError: where the encoder of a modality for which something is to stand in was not run.
        """
        self._clear()
        if not self.needed():
            return
        self.phase = "gather"
        try:
            model.forward(*args, **kwargs)
        except _Gathered:
            pass
        else:  # an encoder was not run
            unmet = [m for m, mask in self.absent.items() if m not in self.given and mask.any()]
            if unmet:
                raise RuntimeError(
                    f"the encoder of {unmet[0]} was not run, so that nothing can stand in: give it any input"
                )
        finally:
            given, self.given, self.phase = self.given, {}, None
        posts = {m: post for m, post in posts_of(model, self.kind).items() if m in given}
        if self.kind == "basis" or len(posts) == len(self.names):
            self.answers = (_substituted if self.kind == "basis" else _exchanged)(given, posts)

    def after(self, _model: nn.Module, _args: Any, _kwargs: Any, _output: Any) -> None:
        """Drop what was gathered. It is the model's forward hook: torch gives it four arguments, of which it reads
        none.

        Args:
            _model: whose forward has ended.
            _args: of its forward, by position.
            _kwargs: of its forward, by name.
            _output: what its forward gave.
        """
        self._clear()

    def take(self, modality: str, value: Any) -> None:
        """Keep what an encoder gave, while gathering; the pass ends there once every encoder has run."""
        self.given[modality] = value
        if len(self.given) == len(self.names):
            raise _Gathered

    def _clear(self) -> None:
        self.phase, self.given, self.answers = None, {}, {}

    def __deepcopy__(self, memo: dict[int, Any]) -> EncoderBarrier:
        twin = EncoderBarrier(self.kind, self.names)
        memo[id(self)] = twin
        return twin


class OutputSum:
    """Where the evidence of readouts beside encoders is added to what the model returns: keep · output + evidence of each
    modality + offset, in logits or values."""

    kind = "late"

    def __init__(self, names: Sequence[str]) -> None:
        self.names, self.phase = tuple(names), None
        self.evidence: dict[str, Tensor] = {}

    def before(self, _model: nn.Module, _args: Any, _kwargs: Any) -> None:
        """Forget the evidence of another pass. It is the model's forward pre-hook.

        Args:
            _model: that the inserts are in.
            _args: of its forward, by position.
            _kwargs: of its forward, by name.
        """
        self.evidence = {}

    def after(self, model: nn.Module, _args: Any, _kwargs: Any, output: Any) -> Any:
        """Add the evidence to the output. It is the model's forward hook.

        Args:
            model: that the inserts are in.
            _args: of its forward, by position.
            _kwargs: of its forward, by name.
            output: what its forward gave.

        Returns:
            The output, with another prediction in it.
        """
        evidence, self.evidence = self.evidence, {}
        posts = posts_of(model, self.kind)
        wanted = next(iter(posts.values())).record["output"]
        way, found = [], output
        if wanted is not None or isinstance(output, Mapping) or hasattr(output, "logits"):
            way.append("logits" if wanted is None else wanted)
            found = _part(found, way[-1])
        while isinstance(found, tuple | list) and found:
            way.append(0)
            found = found[0]
        total: Any = found
        for m, post in posts.items():
            share: Any = post.insert
            told = share.offset + evidence.get(m, torch.zeros_like(share.offset))
            total = share.keep * total + told.reshape(-1, *total.shape[1:])
        return _with_way(output, way, total.to(found.dtype))

    def __deepcopy__(self, memo: dict[int, Any]) -> OutputSum:
        twin = OutputSum(self.names)
        memo[id(self)] = twin
        return twin


def _with_way(value: Any, way: Sequence[str | int], new: Any) -> Any:
    """A copy of a nest of containers with what lies at the end of ``way`` replaced."""
    if not way:
        return new
    return _with_part(value, way[0], _with_way(_part(value, way[0]), way[1:], new))


class OutputShare(nn.Module):
    """What the model's own output is multiplied by, and what is added to it whatever an example says."""

    keep: Tensor  # ()
    offset: Tensor  # (C,)

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.register_buffer("keep", torch.ones(()))
        self.register_buffer("offset", torch.zeros(outputs))


class EncoderStandIn(nn.Module):
    """What stands in an encoder's place and has its attributes, where it has none of that name itself."""

    encoder: nn.Module

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            encoder = self.__dict__.get("_modules", {}).get("encoder")
            if encoder is None or name.startswith("__"):
                raise
            return getattr(encoder, name)


class WithEvidence(EncoderStandIn):
    """An encoder and a readout beside it: what the encoder gives, and the readout's evidence (n, C). Whoever takes both
    from another example, or sets both to 0, has the modality taken away whole: no evidence is 0."""

    def __init__(self, encoder: nn.Module, readout: LateReadout, record: Mapping[str, Any]) -> None:
        super().__init__()
        self.encoder, self.readout, self.record = encoder, readout, dict(record)

    def forward(self, *args: Any, **kwargs: Any) -> tuple[Any, Tensor]:
        """Run the encoder, and read its features, or what enters it, out.

        Args:
            args: of the encoder's forward, by position.
            kwargs: by name.

        Returns:
            What the encoder gives, and the readout's evidence, (n, C).
        """
        key = self.record["argument"]
        entering = args[key] if isinstance(key, int) else None if key is None else kwargs[key]
        value = self.encoder(*args, **kwargs)
        read = features_in(value, self.record) if self.record["reads"] == "features" else entering
        return value, self.readout(read)


class LateReadout(nn.Module):
    """A linear readout of one modality as evidence over the best constant: share · (readout - prior), in logits or values.
    It reads pooled features of the encoder, the numbers that enter it, random Fourier features of these (Rahimi & Recht
    2007), or random convolutions (Coates & Ng 2012). All of it was drawn or fitted before; here it stands as buffers."""

    mean: Tensor  # (D,)
    weight: Tensor  # (D, C)
    bias: Tensor  # (C,)
    prior: Tensor  # (C,)
    share: Tensor  # ()
    middle: Tensor
    scale: Tensor
    frequencies: Tensor
    phases: Tensor
    place: Tensor
    sign: Tensor

    def __init__(self, record: Mapping[str, Any]) -> None:
        super().__init__()
        reads, outputs, read = record["reads"], record["outputs"], record["read"]
        width = record["sums"] or record["entering"]
        if reads not in ("features", "numbers", "fourier", "convolutions") or record["layout"] not in LAYOUTS:
            raise ValueError(f"nothing is known to read {reads!r} of {record['layout']!r}")
        self.reads, self.layout, self.sums, self.logs = reads, record["layout"], record["sums"], record["logs"]
        if self.sums is not None:
            self.register_buffer("place", torch.zeros(record["entering"], dtype=torch.long))
            self.register_buffer("sign", torch.ones(record["entering"]))
        if reads == "fourier":
            for name in ("middle", "scale"):
                self.register_buffer(name, torch.ones(width))
            self.register_buffer("frequencies", torch.zeros(width, read))
            self.register_buffer("phases", torch.zeros(read))
        self.banks = nn.ModuleList(KernelStack(bank) for bank in record["banks"])
        if reads == "convolutions":
            self.register_buffer("middle", torch.zeros(()))
            self.register_buffer("scale", torch.ones(()))
        self.register_buffer("mean", torch.zeros(read))
        self.register_buffer("weight", torch.zeros(read, outputs))
        for name in ("bias", "prior"):
            self.register_buffer(name, torch.zeros(outputs))
        self.register_buffer("share", torch.zeros(()))

    def read(self, x: Tensor) -> Tensor:
        """Compute what is read out, (n, D): of features (n, ..., d), channels last, or of what enters the encoder, (n,
        ...).
        """
        x = LAYOUTS[self.layout](x.to(self.weight.dtype))
        if self.reads == "convolutions":
            small = _shrunk((x - self.middle) / self.scale)
            return torch.cat([bank(small) for bank in self.banks], 1)
        if self.sums is not None:
            x = x.new_zeros(len(x), self.sums).index_add_(1, self.place, x * self.sign)
        if self.reads == "fourier":
            x = ((x - self.middle) * self.scale).clamp(-10.0, 10.0)
            x = (2 / len(self.phases)) ** 0.5 * torch.cos(x @ self.frequencies + self.phases)
        return x

    def forward(self, x: Tensor) -> Tensor:
        """Compute the evidence (n, C) of one modality; 0 is none."""
        natural = (self.read(x) - self.mean) @ self.weight + self.bias
        return self.share * ((natural.log_softmax(1) if self.logs else natural) - self.prior)


class KernelStack(nn.Module):
    """Random kernels of one size and dilation: what each gives over its threshold, rectified and pooled."""

    kernels: Tensor  # (k, c, size) or (k, c, size, size)
    shift: Tensor  # (k,)
    scale: Tensor  # (k,)

    def __init__(self, bank: Mapping[str, Any]) -> None:
        super().__init__()
        self.dilation, self.stride = bank["dilation"], bank["stride"]
        self.register_buffer("kernels", torch.zeros(tuple(bank["shape"])))
        for name in ("shift", "scale"):
            self.register_buffer(name, torch.ones(bank["shape"][0]))

    def forward(self, x: Tensor) -> Tensor:
        """Compute pools, (n, 4 · k) or (n, 6 · k), of maps (n, c, l) or (n, c, h, w): the largest, the mean of what is
        positive, and that in each half or quarter."""
        flat = self.kernels.ndim == 3
        z: Tensor = (F.conv1d if flat else F.conv2d)(x, self.kernels, stride=self.stride, dilation=self.dilation)
        place = (1, -1, *[1] * (z.ndim - 2))
        z = z * self.scale.reshape(place) - self.shift.reshape(place)
        positive = z.clamp_min(0.0)
        parts = F.adaptive_avg_pool1d(positive, 2) if flat else F.adaptive_avg_pool2d(positive, 2)
        return torch.cat([z.flatten(2).amax(2), positive.flatten(2).mean(2), parts.flatten(1)], 1)


_LONGEST = 48  # positions an axis of an image is averaged down to


def _shrunk(x: Tensor) -> Tensor:
    if x.ndim != 4:
        return x
    steps = [-(-side // _LONGEST) for side in x.shape[2:]]
    return x if steps == [1, 1] else F.avg_pool2d(x, steps)


# How what is read is laid out before: in a row, pooled over positions, or as maps with channels first.
LAYOUTS: dict[str, Any] = {
    "flat": lambda x: x.flatten(1),
    "mean": lambda x: x.flatten(1, -2).mean(1),
    "max": lambda x: x.flatten(1, -2).amax(1),
    "as it is": lambda x: x,
    "one channel": lambda x: x[:, None],
    "turned": lambda x: x.transpose(1, 2),
    "turned, one channel": lambda x: x.transpose(1, 2)[:, None],
    "channels last": lambda x: x.movedim(3, 1),
    "film": lambda x: x.flatten(1, 2),
}


def _insert_late(model: nn.Module, records: Sequence[Mapping[str, Any]]) -> None:
    """Put readouts beside encoders, and what adds their evidence to the output behind the model."""
    if not records or junction_of(model, "late") is not None:
        return
    if not all(r["path"] for r in records) or any(posts_of(model, kind) for kind in ("basis", "exchange")):
        raise ValueError("readouts go beside encoders that have nothing else behind them")
    junction = OutputSum([r["modality"] for r in records])
    for record in records:
        outer = model.get_submodule(record["path"])
        both, share = WithEvidence(outer, LateReadout(record), record), OutputShare(record["outputs"])
        like = next((p for p in (*outer.parameters(), *model.parameters()) if p.is_floating_point()), None)
        if like is not None:
            both.readout.to(like)
            share.to(like)
        parent, _, name = record["path"].rpartition(".")
        post = WrappedEncoder(both, share, junction, record).train(outer.training)
        both.train(outer.training)
        setattr(model.get_submodule(parent), name, post)
    model.register_forward_pre_hook(junction.before, with_kwargs=True)
    model.register_forward_hook(junction.after, with_kwargs=True)


class WrappedEncoder(EncoderStandIn):
    """An encoder with an insert behind it, in the encoder's place; other attributes are the encoder's own."""

    insert: nn.Module

    def __init__(
        self, encoder: nn.Module, made: nn.Module, junction: EncoderBarrier | OutputSum, record: Mapping[str, Any]
    ) -> None:
        super().__init__()
        self.encoder, self.insert, self.record = encoder, made, dict(record)
        self.junction: Any = junction

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.junction.phase == "gather":  # hooks hear the answer, not what goes into it
            return self.forward(*args, **kwargs)
        return super().__call__(*args, **kwargs)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the encoder, its features passed through the insert."""
        junction, name = self.junction, self.record["modality"]
        if junction.kind == "late":
            value, junction.evidence[name] = self.encoder(*args, **kwargs)
            return value
        if name in junction.answers:
            return junction.answers.pop(name)
        value = self.encoder(*args, **kwargs)
        if junction.phase == "gather":
            junction.take(name, value)
        elif isinstance(self.insert, BasisHead):
            return self.given_back(value, self.insert.back(self.to_latent(value)))
        return value

    def features_in(self, value: Any) -> Tensor:
        """Pick the features (n, ..., d) in what the encoder gave, channels last."""
        return features_in(value, self.record)

    def to_latent(self, value: Any) -> Tensor:
        """Compute h of the features in what the encoder gave: channels last, (n, ..., latent)."""
        assert isinstance(self.insert, BasisHead)
        latent: Tensor = self.insert.h(self.features_in(value))
        if self.junction.heard is not None:
            self.junction.heard[self.record["modality"]] = latent
        return latent

    def laid_out(self, features: Tensor, like: Tensor) -> Tensor:
        """Lay features (n, ..., d), channels last, out as the encoder does."""
        return features.movedim(-1, self._axis(like)).to(like.dtype)

    def given_back(self, value: Any, features: Tensor) -> Any:
        """Return ``value`` with other features (n, ..., d), channels last, in it."""
        part = None if isinstance(value, Tensor) else self.record["part"]
        old = value if part is None else _part(value, part)
        new: Any = self.laid_out(features, old[0] if isinstance(old, tuple | list) else old)
        if isinstance(old, tuple | list):
            new = _with_part(old, 0, new)
        return new if part is None else _with_part(value, part, new)

    def _axis(self, x: Tensor) -> int:
        return channel_axis(x.ndim, self.record["channels"])


def features_in(value: Any, record: Mapping[str, Any]) -> Tensor:
    """Pick the features (n, ..., d), channels last, in what the encoder of a record gave."""
    part = record["part"]
    found = value if part is None or isinstance(value, Tensor) else _part(value, part)
    found = found[0] if isinstance(found, tuple | list) else found
    if not isinstance(found, Tensor):
        raise TypeError(f"the encoder of {record['modality']} gives {type(found).__name__}, expected a tensor")
    return found.movedim(channel_axis(found.ndim, record["channels"]), -1)


def channel_axis(ndim: int, channels: str | None) -> int:
    """Say which axis of features of ``ndim`` axes, the first of them the example, holds their channels.

    That is 1 where ``channels`` is "first", the last where it is "last"; None: tokens (n, t, d) have them last, maps
    (n, d, h, w) first.
    """
    first = ndim > 2 and (channels == "first" or (channels is None and ndim > 3))
    return 1 if first else ndim - 1


def _part(value: Any, key: str | int) -> Any:
    return getattr(value, key) if isinstance(key, str) and hasattr(value, key) else value[key]


def _with_part(value: Any, key: str | int, new: Any) -> Any:
    """A copy of a tuple, list, mapping or object with one part replaced."""
    if isinstance(value, tuple):
        parts = list(value)
        parts[value._fields.index(key) if isinstance(key, str) else key] = new  # type: ignore[attr-defined]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    twin = copy.copy(value)
    if isinstance(twin, Mapping | list):
        twin[key] = new  # type: ignore[index]
    else:
        object.__setattr__(twin, str(key), new)  # frozen dataclasses too
    return twin


def _at(x: Tensor, like: Tensor) -> Tensor:
    """``x`` (n, ..., d) at the positions of ``like`` (n, ..., e): position by position where there are as many, else its
    mean at each."""
    if x.shape[:-1] == like.shape[:-1]:
        return x
    flat = x.flatten(1, -2) if x.ndim > 2 else x[:, None]
    places = like.shape[1:-1]
    if flat.shape[1] == places.numel():
        return flat.reshape(len(x), *places, x.shape[-1])
    mean = flat.mean(1)
    return mean.reshape(len(x), *[1] * len(places), x.shape[-1]).expand(len(x), *places, x.shape[-1])


def _substituted(given: Mapping[str, Any], posts: Mapping[str, WrappedEncoder]) -> dict[str, Any]:
    """What stands in the encoders' places: h⁻¹ of their own latent encoding, where it is absent of another's."""
    latents = {m: post.to_latent(given[m]) for m, post in posts.items()}
    answers = {}
    for m, post in posts.items():
        masks = post.junction.absent
        own = stand_in(post, latents, masks) if m in masks else latents[m]
        answers[m] = post.given_back(given[m], post.insert.back(own))  # type: ignore[operator]
    return answers


def stand_in(post: WrappedEncoder, latents: Mapping[str, Tensor], absent: Mapping[str, Tensor]) -> Tensor:
    """Choose what stands in for a modality where it is absent, in the latent space.

    Args:
        post: the modality's encoder, with its insert.
        latents: the latent encoding (n, ..., latent) of every modality whose encoder ran.
        absent: by modality, in which examples it is absent, bool (n,); one that is not named is present.

    Returns:
        The modality's own encoding (n, ..., latent), and in the examples where it is absent that of its first choice
        among those present; where none is present its own.
    """
    basis, name = post.insert, post.record["modality"]
    assert isinstance(basis, BasisHead)
    out = own = latents[name]
    left = absent[name].to(own.device)
    for number in basis.choices():
        other = basis.others[number]
        if other not in latents:  # its encoder was not run
            continue
        gone = absent.get(other)
        now = left if gone is None else left & ~gone.to(own.device)
        out = torch.where(now.reshape(-1, *[1] * (own.ndim - 1)), _at(latents[other], own), out)
        left = left & ~now
    return out


def _exchanged(given: Mapping[str, Any], posts: Mapping[str, WrappedEncoder]) -> dict[str, Any]:
    features = {m: post.features_in(given[m]) for m, post in posts.items()}
    mixed = {m: post.insert(features[m], features[post.record["giver"]]) for m, post in posts.items()}
    return {m: post.given_back(given[m], mixed[m]) for m, post in posts.items()}


@contextmanager
def substitute_missing(model: nn.Module, masks: Mapping[str, Tensor]) -> Iterator[None]:
    """Run ``model`` with modalities substituted (Chaudhuri et al. 2025, section 4.4): in the examples where ``masks``
    (by modality, bool (n,), true: absent) says so, h⁻¹ of the closest present modality's latent encoding stands in.
    What the model is given for an absent modality does not matter. Raises ValueError for a modality without a head."""
    junction = junction_of(model, "basis")
    known = () if junction is None else junction.names
    unknown = [m for m in masks if m not in known]
    if junction is None or unknown:
        raise ValueError(
            f"no head was inserted for {', '.join(unknown) or 'any modality'}: known are {', '.join(known)}"
        )
    before, junction.absent = junction.absent, dict(masks)
    try:
        yield
    finally:
        junction.absent = before


@contextmanager
def capture_latents(model: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Note latent encodings (n, ..., latent) of the last batch by modality, gradient kept.

    Raises ValueError where no heads were inserted into ``model``.
    """
    junction = junction_of(model, "basis")
    if junction is None:
        raise ValueError("no heads were inserted into this model")
    before, junction.heard = junction.heard, {}
    try:
        yield junction.heard
    finally:
        junction.heard = before
