"""Which modules are encoders of a modality: by the words in their names, then by parallel structure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from collapsekit.autoconfig.modules import Module
from collapsekit.autoconfig.vocabulary import CONTAINER, COPY, ENCODER, FUSION, HEAD, HINTS, PROJECTION, SENSES, words

_NAME_LIMIT = 64  # characters of a modality's name
_MOST_NUMBERED = 8  # more children than that are layers, not modalities
_MOST_LISTED = 6


@dataclass(frozen=True)
class Claim:
    """A module taken for the encoder of a modality."""

    name: str
    sense: str
    module: Module


def find_encoders(root: Module, unsure: list[str]) -> dict[str, Module]:
    """Modality name -> its encoder, in file order; doubts are added to ``unsure`` as sentences."""
    claims = _by_word(root, SENSES, [], unsure)
    claims += _by_structure(root, claims, unsure)
    if len(claims) < 2:
        named = [c for c in _by_word(root, HINTS, claims, unsure) if c.sense not in {k.sense for k in claims}]
        claims += [Claim(c.sense, c.sense, c.module) for c in named]
    claims = list(_without_answers(claims, unsure))
    position = {name: i for i, (name, _) in enumerate(root.tensors)}
    claims.sort(key=lambda c: position[c.module.tensors[0][0]])
    if len(claims) > 1 and all(_standing(c.module) == 0 for c in claims):
        unsure.append("The modalities are only embedded apart and meet in one shared network (a single stream).")
    named_modules: dict[str, Module] = {}
    for claim in claims:
        base, n = claim.name[:_NAME_LIMIT], 1
        name = base
        while name in named_modules:
            n += 1
            name = f"{base}_{n}"
        named_modules[name] = claim.module
    return named_modules


def _without_answers(claims: Iterable[Claim], unsure: list[str]) -> Iterator[Claim]:
    """Leave out modules that give one number: branches of the answer, and no modality's features."""
    for claim in claims:
        inside = words(claim.module.parent.rpartition(".")[2])
        encodes = claim.module.named(ENCODER - {"branch"}) or not (CONTAINER - {"branches"}).isdisjoint(inside)
        if claim.module.width() == 1 and not encodes:  # an encoder may end in the weights of its attention
            unsure.append(
                f"{claim.module.path[:80]!r} gives one number, as a branch of the answer does: it is taken for no modality."
            )
        else:
            yield claim


def _candidates(root: Module, taken: list[Module]) -> Iterator[Module]:
    """Modules outside ``taken`` (which may grow meanwhile) and outside fusion, heads and copies, breadth first."""
    closed: list[Module] = []
    for node in root.walk():
        if any(c.holds(node.path) for c in (*taken, *closed)):
            continue
        if node.named(FUSION | HEAD | COPY) and not _wraps_all(root, node):
            closed.append(node)
        else:
            yield node


def _wraps_all(root: Module, node: Module) -> bool:
    """Whether nothing but heads lies outside ``node``: then its name is the whole model's ("visual_bert")."""
    outside = (name for name, _ in root.tensors if not node.holds(name))
    return all(any(not HEAD.isdisjoint(words(part)) for part in name.split(".")[:-1]) for name in outside)


def _by_word(
    root: Module, vocabulary: Mapping[str, tuple[str, ...]], earlier: Iterable[Claim], unsure: list[str]
) -> list[Claim]:
    senses = {word: sense for sense, known in vocabulary.items() for word in known}
    taken = [c.module for c in earlier]
    found: dict[str, list[Claim]] = {}
    for node in _candidates(root, taken):
        hits = {senses[w]: w for w in node.words if w in senses}
        if len(hits) == 1 and not _wraps_all(root, node):  # two senses in one name: they meet there
            ((sense, word),) = hits.items()
            taken.append(node)
            found.setdefault(sense, []).append(Claim(word, sense, node))
    return [claim for claims in found.values() for claim in _resolved(claims, unsure)]


def _standing(node: Module) -> int:
    """2: an encoder by its name; 1: some stage; 0: an embedding or projection."""
    if node.named(PROJECTION):
        return 0
    return 2 if len(node.words) == 1 or node.named(ENCODER) else 1


def _resolved(claims: list[Claim], unsure: list[str]) -> list[Claim]:
    """Of several modules of one sense: all encoders, where they are siblings; else the one that serves best."""
    top = max(_standing(c.module) for c in claims)
    best = [c for c in claims if _standing(c.module) == top]
    if top == 2 and len(best) > 1 and len({c.module.parent for c in best}) == 1:
        return [Claim(_stem(c.module), c.sense, c.module) for c in best]
    chosen = best[0] if top == 2 else best[-1]  # stages come in order: the last one's output is the feature
    others = [repr(c.module.path[:80]) for c in claims if c is not chosen][:_MOST_LISTED]
    if others:
        unsure.append(
            f"{', '.join(others)} also belong{'s' * (len(others) == 1)} to {chosen.name!r}: name it as the "
            "encoder if its output is what the fusion gets."
        )
    return [chosen]


def _stem(node: Module) -> str:
    return "_".join(w for w in node.words if w not in ENCODER) or node.name


def _by_structure(root: Module, claims: list[Claim], unsure: list[str]) -> list[Claim]:
    """The children of a container such as ``encoders``, and siblings such as enc_a and enc_b."""
    taken = [c.module for c in claims]
    found: list[Claim] = []
    for group in _parallel(root):
        fresh = [(name, m) for name, m in group if not any(t.holds(m.path) or m.holds(t.path) for t in taken)]
        anchored = len(fresh) < len(group)  # a sibling is known to be a modality
        if len(group) < 2 or not fresh or (claims and not anchored):
            continue
        numbered = [name for name, _ in fresh if name.isdecimal()]
        if len(numbered) > _MOST_NUMBERED:
            continue
        if numbered:
            unsure.append("Some encoders are only numbered: name each modality as your data calls it.")
        found += [Claim(f"modality_{n}" if n in numbered else n, m.path, m) for n, m in fresh]
        taken += [m for _, m in fresh]
    return found


def _parallel(root: Module) -> list[list[tuple[str, Module]]]:
    """Groups of siblings whose names differ in one word, with that word."""
    groups: dict[tuple[str, ...], list[tuple[str, Module]]] = {}
    for node in _candidates(root, []):
        if node.path.count(".") > 2:
            break  # breadth first: only deeper ones follow
        if not CONTAINER.isdisjoint(words(node.parent.rpartition(".")[2])):
            groups.setdefault((node.parent,), []).append((node.name, node))
            continue
        own = [w for w in node.words if w not in ENCODER]
        if len(own) == 1 and len(node.words) == 2:
            pattern = ("*" if w in own else w for w in node.words)
            groups.setdefault((node.parent, *pattern), []).append((own[0], node))
    return list(groups.values())
