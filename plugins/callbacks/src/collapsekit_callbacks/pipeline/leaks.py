"""Whether a modality says the label outright: a column, a set of tokens or a part of the prompt that settles it."""

from __future__ import annotations

from collections import Counter

import torch
from torch import Tensor

COLUMNS = 4096  # of a modality's numbers: how many are looked at
CLASSES = 256
ENOUGH = 50  # examples
EACH = 3  # examples of a class
TOKENS = 1 << 17  # numbers of a vocabulary that are kept by class
IGNORED = -100  # labels of tokens that are not asked for
LABELS = 64  # numbers of a label that are looked at
ROUNDING = 1e-9  # of a mean square: less spread than that is none
STRAIGHT = 1e-6  # what is left of a column beside a straight line of the label


class LeakTally:
    """Sums over the steps, of one modality beside the labels."""

    def __init__(self) -> None:
        self.examples = 0
        self._classes: dict[int, _OfClass] = {}
        self._line = _Line()
        self._prompts = 0
        self._said, self._elsewhere = Counter[str](), Counter[str]()  # by place, of the own answer and of another's
        self._odd = False

    def add(self, parts: list[Tensor], label: Tensor | None) -> None:
        """Count one step's examples."""
        if label is None or not parts or self._odd:
            return
        x = parts[0].detach()
        if x.dim() < 2 or len(x) != len(label):
            self._odd = x.dim() < 2
            return
        label = label.detach()
        self.examples += len(x)
        if label.dim() == 2 and not label.is_floating_point() and not x.is_floating_point():
            self._prompt(x, label)
        elif label.is_floating_point():
            self._line.add(_columns(x), label)
        elif label.numel() == len(label):
            self._by_class(x, label.reshape(-1))

    def _by_class(self, x: Tensor, label: Tensor) -> None:
        rows = _columns(x) if x.is_floating_point() or x.dtype is torch.bool else _presence(x)
        if rows is None:
            self._odd = True
            return
        for value in label.unique().tolist():
            if value not in self._classes and len(self._classes) >= CLASSES:
                self._odd = True
                return
            self._classes.setdefault(int(value), _OfClass()).add(rows[label == value])

    def _prompt(self, x: Tensor, label: Tensor) -> None:
        answers = [row[row != IGNORED].tolist() for row in label]
        if all(len(a) == label.shape[1] for a in answers):
            return  # nothing is kept apart: the model learns the prompt as well
        while min(map(len, answers)) > 1 and len({a[-1] for a in answers}) == 1:
            answers = [a[:-1] for a in answers]  # the token that ends all of them
        prompts = [row[~behind].tolist() for row, behind in zip(x, _aligned(label, x), strict=True)]
        for i, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
            other = answers[i - 1]
            if answer and other and answer != other:
                self._prompts += 1
                self._said.update(_places(prompt, answer))
                self._elsewhere.update(_places(prompt, other))

    def reason(self) -> str | None:
        """What gives the label away; None where nothing does, or too little was seen to tell."""
        place, said = max(self._said.items(), key=lambda item: item[1], default=("", 0))
        # At one and the same place: that a text holds its answer somewhere is how many questions are made.
        if self._prompts >= ENOUGH and said >= 0.95 * self._prompts and self._elsewhere[place] <= self._prompts / 2:
            return f"the prompt holds the answer's own tokens at {place} in {said} of {self._prompts} examples"
        if self._odd or self.examples < ENOUGH:
            return None
        return self._line.reason() or _settled(list(self._classes.values()))


class _OfClass:
    """The range of each column among the examples of one class."""

    def __init__(self) -> None:
        self.count = 0
        self.low: Tensor | None = None
        self.high: Tensor | None = None

    def add(self, rows: Tensor) -> None:
        self.count += len(rows)
        low, high = rows.amin(0), rows.amax(0)
        if self.low is None or self.high is None:
            self.low, self.high = low, high
            return
        width = max(len(low), len(self.low))  # of tokens, the highest number seen so far
        self.low = torch.minimum(_wide(self.low, width), _wide(low, width))
        self.high = torch.maximum(_wide(self.high, width), _wide(high, width))


class _Line:
    """Whether a column is a straight line of one of the label's numbers."""

    def __init__(self) -> None:
        self.sums: Tensor | None = None  # (2 + k, d): x, x², x·y of each of k labels
        self.labels: Tensor | None = None  # (2, k): y, y²
        self.count = 0
        self.odd = False

    def add(self, x: Tensor, y: Tensor) -> None:
        x, y = x.double(), y.reshape(len(y), -1)[:, :LABELS].double()
        found = torch.cat([x.sum(0)[None], x.square().sum(0)[None], y.T @ x])
        labels = torch.stack([y.sum(0), y.square().sum(0)])
        if self.sums is None or self.labels is None:
            self.sums, self.labels = found, labels
        elif self.sums.shape != found.shape:
            self.odd = True
            return
        else:
            self.sums, self.labels = self.sums + found, self.labels + labels
        self.count += len(x)

    def reason(self) -> str | None:
        if self.sums is None or self.labels is None or self.odd:
            return None
        x, xx = self.sums[:2] / self.count
        y, yy = self.labels / self.count
        spread, of_label = xx - x.square(), yy - y.square()
        shared = (self.sums[2:] / self.count - y[:, None] * x).square()  # (k, d)
        known = (spread > ROUNDING * xx) & (of_label > ROUNDING * yy)[:, None]
        straight = (known & (shared >= (1 - STRAIGHT) * spread * of_label[:, None])).any(0)
        return (
            f"its number {int(straight.nonzero()[0])} is the label itself, rescaled" if bool(straight.any()) else None
        )


def _settled(classes: list[_OfClass]) -> str | None:
    """Tell the columns that are one value in each class, where together they tell all classes apart."""
    if len(classes) < 2 or any(c.count < EACH or c.low is None or c.high is None for c in classes):
        return None
    width = max(len(c.low) for c in classes if c.low is not None)
    low = torch.stack([_wide(c.low, width) for c in classes if c.low is not None])
    high = torch.stack([_wide(c.high, width) for c in classes if c.high is not None])
    settled = (low == high).all(0) & (low != low[:1]).any(0)
    telling = low[:, settled]
    if telling.shape[1] == 0 or len(telling.unique(dim=0)) < len(classes):
        return None
    number = int(settled.nonzero()[0])
    return f"its number {number} takes one value in each class, so that the label can be read from it"


def _columns(x: Tensor) -> Tensor:
    flat = x.reshape(len(x), -1)
    if flat.shape[1] > COLUMNS:
        flat = flat[:, torch.linspace(0, flat.shape[1] - 1, COLUMNS, device=x.device).long()]
    return flat.float()


def _presence(x: Tensor) -> Tensor | None:
    """(n, v): 1 where an example has the token."""
    flat = x.reshape(len(x), -1).long()
    top = int(flat.max())
    if int(flat.min()) < 0 or top >= TOKENS:
        return None
    found = torch.zeros(len(flat), top + 1, device=x.device)
    return found.scatter_(1, flat, 1.0)


def _wide(x: Tensor, width: int) -> Tensor:
    return torch.nn.functional.pad(x, (0, width - len(x)))


def _aligned(label: Tensor, x: Tensor) -> Tensor:
    """Which tokens of the input are answers, or lie behind the first one."""
    width = x.shape[1]
    asked = (label != IGNORED).cumsum(1) > 0
    if asked.shape[1] == width:
        return asked
    return torch.zeros(x.shape, dtype=torch.bool, device=x.device)  # of an encoder and a decoder: all of it is prompt


def _places(prompt: list[int], answer: list[int]) -> set[str]:
    """Where a prompt holds an answer, counted from its start and from its end."""
    size = len(answer)
    found = [i for i in range(len(prompt) - size + 1) if prompt[i : i + size] == answer]
    return {f"token {i + 1}" for i in found} | {f"token {len(prompt) - i} from its end" for i in found}
