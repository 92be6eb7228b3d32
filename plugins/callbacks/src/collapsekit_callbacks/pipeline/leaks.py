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
        self._by_class = _Settled()
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
            self._count(x, label.reshape(-1))

    def _count(self, x: Tensor, label: Tensor) -> None:
        wide = x.is_floating_point() or x.dtype is torch.bool
        if wide and self._by_class.over:
            return
        rows = _columns(x) if wide else _presence(x)
        if rows is None or not self._by_class.add(rows, label, more=not wide):
            self._odd = True

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
        return self._line.reason() or self._by_class.reason()


class _Settled:
    """Columns that are one value in each class, where together they tell all classes apart."""

    def __init__(self) -> None:
        self.over = False  # no column is one value in each class, and none will be
        self._places: dict[int, int] = {}  # class -> row of ``_values``
        self._counts: Counter[int] = Counter()
        self._values: Tensor | None = None  # (classes, d), of each class's first example
        self._same: Tensor | None = None  # (d,): one value in each class so far

    def add(self, rows: Tensor, label: Tensor, *, more: bool) -> bool:
        """Count examples (n, d) of classes (n,); ``more``: columns may be added later on, which were 0 until then. Returns
        whether there are no more classes than are kept."""
        classes, place = label.unique(return_inverse=True)
        known = [int(value) for value in classes.tolist()]
        if len(self._places.keys() | set(known)) > CLASSES:
            return False
        self._counts.update(dict(zip(known, torch.bincount(place).tolist(), strict=True)))
        order = torch.arange(len(rows), device=rows.device)
        first = torch.full_like(classes, len(rows), dtype=torch.int64).scatter_reduce_(0, place, order, "amin")
        values = rows[first]
        same = (rows == values[place]).all(0)
        if self._values is not None and self._same is not None:
            width = max(rows.shape[1], self._values.shape[1])
            values, before = _wide(values, width), _wide(self._values, width)
            same = _wide(same, width, fill=True) & _wide(self._same, width, fill=True)
            old = [i for i, c in enumerate(known) if c in self._places]
            same &= (values[old] == before[[self._places[known[i]] for i in old]]).all(0)
            new = [i for i, c in enumerate(known) if c not in self._places]
            values = torch.cat([before, values[new]])
            known = [known[i] for i in new]
        self._places |= {c: len(self._places) + i for i, c in enumerate(known)}
        self._values, self._same = values, same
        self.over = not more and not bool(same.any())
        return True

    def reason(self) -> str | None:
        if self._values is None or self._same is None or len(self._places) < 2 or min(self._counts.values()) < EACH:
            return None
        settled = self._same & (self._values != self._values[:1]).any(0)
        telling = self._values[:, settled]
        if telling.shape[1] == 0 or len(telling.unique(dim=0)) < len(telling):
            return None
        number = int(settled.nonzero()[0])
        return f"its number {number} takes one value in each class, so that the label can be read from it"


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


def _wide(x: Tensor, width: int, fill: float = 0.0) -> Tensor:
    return torch.nn.functional.pad(x, (0, width - x.shape[-1]), value=fill)


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
