"""Inner loops of the search for a place for each sender (see ``loops``)."""

from __future__ import annotations

from typing import Any

Array = Any


def pack(listed: Array, weights: Array, shard: Array, loads: Array) -> None:
    """Each of ``listed`` in turn to the shard that has least, of those the first."""
    for sender in listed:
        best = 0
        for place in range(1, len(loads)):
            if loads[place] < loads[best]:
                best = place
        shard[sender] = best
        loads[best] += weights[sender]


def adopt(
    visit: Array,
    starts: Array,
    neighbours: Array,
    their_labels: Array,
    labels: Array,
    weights: Array,
    mass: Array,
    limit: int,
    counts: Array,
) -> int:
    """Each vertex of ``visit`` takes the label that most of its neighbours have; of several its own, else the lowest.

    ``labels`` of the vertices; ``mass`` (labels,) i8: weight of the vertices that have each, which does
    not grow beyond ``limit``. ``counts`` (labels,) i8 zeros, and zeros again after. Answers how many labels changed.
    """
    changes = 0
    for vertex in visit:
        mine = labels[vertex]
        for pin in range(starts[vertex], starts[vertex + 1]):
            counts[their_labels[neighbours[pin]]] += 1
        best = mine
        most = counts[mine]
        for pin in range(starts[vertex], starts[vertex + 1]):
            label = their_labels[neighbours[pin]]
            if label == best or mass[label] + weights[vertex] > limit:
                continue
            if counts[label] > most or (counts[label] == most and best != mine and label < best):
                best = label
                most = counts[label]
        for pin in range(starts[vertex], starts[vertex + 1]):
            counts[their_labels[neighbours[pin]]] = 0
        if best != mine:
            mass[mine] -= weights[vertex]
            mass[best] += weights[vertex]
            labels[vertex] = best
            changes += 1
    return changes


def even(weights: Array, place: Array, loads: Array, cap: int, tries: int) -> None:
    """Exchange groups, or move one, between the fullest shard and another as long as that is above ``cap`` and less becomes
    of the fuller of the two, always what leaves the least. ``weights`` (G,) i8, ``place`` (G,) i4; at most ``tries``
    exchanges."""
    groups = len(weights)
    for _ in range(tries):
        full = 0
        for shard in range(1, len(loads)):
            if loads[shard] > loads[full]:
                full = shard
        if loads[full] <= cap:
            return
        best = loads[full]
        giving = -1
        taking = -1
        other = -1
        for one in range(groups):
            if place[one] != full:
                continue
            for shard in range(len(loads)):
                fuller = max(loads[full] - weights[one], loads[shard] + weights[one])
                if shard != full and fuller < best:
                    best = fuller
                    giving = one
                    taking = -1
                    other = shard
            for back in range(groups):
                shard = place[back]
                if shard != full:
                    more = weights[one] - weights[back]
                    fuller = max(loads[full] - more, loads[shard] + more)
                    if fuller < best:
                        best = fuller
                        giving = one
                        taking = back
                        other = shard
        if giving < 0:
            return
        more = weights[giving]
        place[giving] = other
        if taking >= 0:
            more -= weights[taking]
            place[taking] = full
        loads[full] -= more
        loads[other] += more


def spill(listed: Array, weights: Array, shard: Array, loads: Array, cap: int, target: Array) -> None:
    """Senders of ``listed`` in turn leave a shard that is above ``cap``: those of one shard to one other, while that has
    room. ``target`` (S,) i8 is scratch, filled with -1."""
    for sender in listed:
        here = shard[sender]
        if loads[here] <= cap:
            continue
        to = target[here]
        if to < 0 or loads[to] + weights[sender] > cap:
            to = 0
            for place in range(1, len(loads)):
                if loads[place] < loads[to]:
                    to = place
            target[here] = to
        loads[here] -= weights[sender]
        loads[to] += weights[sender]
        shard[sender] = to


def tally(pin_starts: Array, out: Array, weights: Array, shard: Array, counts: Array, loads: Array) -> None:
    """``counts`` (E, S) i4 zeros: senders of each shared key in each shard; ``loads`` (S,) i8 zeros: transactions."""
    for sender in range(len(weights)):
        loads[shard[sender]] += weights[sender]
        for pin in range(pin_starts[sender], pin_starts[sender + 1]):
            counts[out[pin], shard[sender]] += 1


def objective(counts: Array, power: Array) -> float:
    """Probabilistic fanout, summed over keys and shards. ``power[i]`` = (1 - p) ** i."""
    total = 0.0
    for edge in range(counts.shape[0]):
        for place in range(counts.shape[1]):
            total += 1.0 - power[counts[edge, place]]
    return total


def sweep(
    visit: Array,
    pin_starts: Array,
    out: Array,
    weights: Array,
    shard: Array,
    counts: Array,
    loads: Array,
    cap: int,
    power: Array,
    cost: Array,
    blocked: Array,
    gains: Array,
    figures: Array,
) -> int:
    """Each sender of ``visit`` once, to the shard where it gains most, if that has room for it.

    ``power`` has (1 - p) ** i at i, and p in its last place. ``cost`` (S,) f8 is scratch. Where the best shard has no
    room, the sender is noted in ``blocked`` (V, 2) i8 (sender, shard) and ``gains`` (V,) f8; the number of these is
    answered. ``figures`` (2,) f8: moves and what they gained are added.
    """
    probability = power[len(power) - 1]
    waiting = 0
    shards = len(loads)
    for sender in visit:
        begin = pin_starts[sender]
        end = pin_starts[sender + 1]
        if begin == end:
            continue
        here = shard[sender]
        for place in range(shards):
            cost[place] = 0.0
        leaving = 0.0
        for pin in range(begin, end):
            edge = out[pin]
            leaving += power[counts[edge, here] - 1]
            for place in range(shards):
                cost[place] += power[counts[edge, place]]
        best = here
        best_cost = leaving
        for place in range(shards):
            if place != here and cost[place] < best_cost:
                best = place
                best_cost = cost[place]
        gain = probability * (leaving - best_cost)
        if best == here or gain <= 1e-12:
            continue
        if loads[best] + weights[sender] <= cap:
            for pin in range(begin, end):
                counts[out[pin], here] -= 1
                counts[out[pin], best] += 1
            loads[here] -= weights[sender]
            loads[best] += weights[sender]
            shard[sender] = best
            figures[0] += 1.0
            figures[1] += gain
        else:
            blocked[waiting, 0] = sender
            blocked[waiting, 1] = best
            gains[waiting] = gain
            waiting += 1
    return waiting


def swap(
    pair_starts: Array,
    listed: Array,
    pin_starts: Array,
    out: Array,
    weights: Array,
    shard: Array,
    counts: Array,
    loads: Array,
    cap: int,
    power: Array,
    figures: Array,
) -> None:
    """Senders that found no room, exchanged for the best that want to go the other way.

    ``listed`` are senders by (from, to), the one that gains most first; those from a to b are
    ``listed[pair_starts[a * S + b]:pair_starts[a * S + b + 1]]``. Gains are taken anew before a pair is exchanged, and what
    would not gain, or fit, stays. ``figures`` as in ``sweep``.
    """
    probability = power[len(power) - 1]
    shards = len(loads)
    for left in range(shards):
        for right in range(left + 1, shards):
            first = pair_starts[left * shards + right]
            first_end = pair_starts[left * shards + right + 1]
            second = pair_starts[right * shards + left]
            second_end = pair_starts[right * shards + left + 1]
            while first < first_end or second < second_end:
                one = listed[first] if first < first_end else -1
                other = listed[second] if second < second_end else -1
                going = 0.0
                if one >= 0:
                    for pin in range(pin_starts[one], pin_starts[one + 1]):
                        edge = out[pin]
                        going += power[counts[edge, left] - 1] - power[counts[edge, right]]
                    if going * probability <= 1e-12:
                        first += 1
                        continue
                    if loads[right] + weights[one] <= cap:  # room has come up meanwhile
                        for pin in range(pin_starts[one], pin_starts[one + 1]):
                            counts[out[pin], left] -= 1
                            counts[out[pin], right] += 1
                        loads[left] -= weights[one]
                        loads[right] += weights[one]
                        shard[one] = right
                        figures[0] += 1.0
                        figures[1] += going * probability
                        first += 1
                        continue
                if other < 0:
                    break
                coming = 0.0
                for pin in range(pin_starts[other], pin_starts[other + 1]):
                    edge = out[pin]
                    coming += power[counts[edge, right] - 1] - power[counts[edge, left]]
                if coming * probability <= 1e-12:
                    second += 1
                    continue
                if loads[left] + weights[other] <= cap:
                    for pin in range(pin_starts[other], pin_starts[other + 1]):
                        counts[out[pin], right] -= 1
                        counts[out[pin], left] += 1
                    loads[right] -= weights[other]
                    loads[left] += weights[other]
                    shard[other] = left
                    figures[0] += 1.0
                    figures[1] += coming * probability
                    second += 1
                    continue
                if one < 0:
                    break
                more = weights[one] - weights[other]
                if loads[right] + more > cap:
                    # too heavy for what comes back: the next that comes back may be heavier, the next that goes lighter
                    if going < coming:
                        first += 1
                    else:
                        second += 1
                    continue
                if loads[left] - more > cap:
                    if coming < going:
                        second += 1
                    else:
                        first += 1
                    continue
                for pin in range(pin_starts[one], pin_starts[one + 1]):
                    counts[out[pin], left] -= 1
                    counts[out[pin], right] += 1
                coming = 0.0
                for pin in range(pin_starts[other], pin_starts[other + 1]):
                    edge = out[pin]
                    coming += power[counts[edge, right] - 1] - power[counts[edge, left]]
                if (going + coming) * probability <= 1e-12:
                    for pin in range(pin_starts[one], pin_starts[one + 1]):
                        counts[out[pin], left] += 1
                        counts[out[pin], right] -= 1
                    first += 1
                    second += 1
                    continue
                for pin in range(pin_starts[other], pin_starts[other + 1]):
                    counts[out[pin], right] -= 1
                    counts[out[pin], left] += 1
                loads[left] -= more
                loads[right] += more
                shard[one] = right
                shard[other] = left
                figures[0] += 2.0
                figures[1] += (going + coming) * probability
                first += 1
                second += 1
