"""The inner loops, in plain Python over arrays; ``kernels`` compiles these very functions.

None calls another, so that each compiles by itself. Sums of floats are in one order everywhere: compiled and plain give the
same bits, and a partition does not say who computed it. Shapes: n transactions, V senders, K keys, E shared keys
(hyperedges), S shards.
"""

from __future__ import annotations

from typing import Any

Array = Any


def group(values: Array, starts: Array, order: Array) -> None:
    """Indices by value, stable. ``values`` (n,) i8 below m. ``starts`` (m + 1,) i8 zeros and ``order`` (n,) are made."""
    for value in values:
        starts[value + 1] += 1
    for value in range(1, len(starts)):
        starts[value] += starts[value - 1]
    for index in range(len(values)):
        value = values[index]
        order[starts[value]] = index
        starts[value] += 1
    for value in range(len(starts) - 1, 0, -1):
        starts[value] = starts[value - 1]
    starts[0] = 0


def pins(
    own_starts: Array,
    own: Array,
    read_starts: Array,
    reads: Array,
    write_starts: Array,
    writes: Array,
    seen: Array,
    degree: Array,
    pin_starts: Array,
    out: Array,
) -> int:
    """Keys of each sender, each once; then those of them alone that two or more senders touch, numbered anew.

    ``own_starts`` (V + 1,), ``own`` (n,): transactions by sender. ``seen`` (K,) filled with -1, ``degree`` (K,) zeros.
    Filled: ``pin_starts`` (V + 1,), ``out`` (at least reads + writes) and ``degree``, which becomes each key's number among
    the shared ones or -1. Answers E.
    """
    at = 0
    for sender in range(len(own_starts) - 1):
        pin_starts[sender] = at
        for index in range(own_starts[sender], own_starts[sender + 1]):
            transaction = own[index]
            for pin in range(read_starts[transaction], read_starts[transaction + 1]):
                key = reads[pin]
                if seen[key] != sender:
                    seen[key] = sender
                    degree[key] += 1
                    out[at] = key
                    at += 1
            for pin in range(write_starts[transaction], write_starts[transaction + 1]):
                key = writes[pin]
                if seen[key] != sender:
                    seen[key] = sender
                    degree[key] += 1
                    out[at] = key
                    at += 1
    pin_starts[len(own_starts) - 1] = at
    edges = 0
    for key in range(len(degree)):
        if degree[key] >= 2:
            degree[key] = edges
            edges += 1
        else:
            degree[key] = -1
    kept = 0
    begin = 0
    for sender in range(len(own_starts) - 1):
        end = pin_starts[sender + 1]
        for pin in range(begin, end):
            edge = degree[out[pin]]
            if edge >= 0:
                out[kept] = edge
                kept += 1
        begin = end
        pin_starts[sender + 1] = kept
    return edges


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


def touches(
    senders: Array,
    read_starts: Array,
    reads: Array,
    write_starts: Array,
    writes: Array,
    edge_of: Array,
    shard: Array,
    seen: Array,
    out: Array,
) -> None:
    """``out`` (E, S) i4 zeros: transactions that touch each shared key in each shard. ``edge_of`` (K,) a key's number
    among the shared, or -1; ``shard`` (V,) of each sender; ``seen`` (K,) filled with -1."""
    for transaction in range(len(senders)):
        place = shard[senders[transaction]]
        for pin in range(read_starts[transaction], read_starts[transaction + 1]):
            key = reads[pin]
            seen[key] = transaction
            if edge_of[key] >= 0:
                out[edge_of[key], place] += 1
        for pin in range(write_starts[transaction], write_starts[transaction + 1]):
            key = writes[pin]
            if seen[key] != transaction and edge_of[key] >= 0:
                out[edge_of[key], place] += 1


def scores(pin_starts: Array, out: Array, touched: Array, shard: Array, score: Array) -> None:
    """``score`` (V,) f8: the mean over a sender's keys of the rank of its shard among the shards of the key, fewest touches
    first, over the number of these less one; -1 where no key is in two shards. ``touched`` (E, S) as ``touches`` has it."""
    shards = touched.shape[1]
    for sender in range(len(score)):
        here = shard[sender]
        total = 0.0
        keys = 0
        for pin in range(pin_starts[sender], pin_starts[sender + 1]):
            edge = out[pin]
            own = touched[edge, here]
            chain = 0
            rank = 0
            for place in range(shards):
                count = touched[edge, place]
                if count > 0:
                    chain += 1
                    if count < own or (count == own and place < here):
                        rank += 1
            if chain > 1:
                total += rank / (chain - 1)
                keys += 1
        score[sender] = total / keys if keys > 0 else -1.0


def components(senders: Array, write_starts: Array, writes: Array, parent: Array, sender_count: int) -> None:
    """Union of each sender (0 .. V - 1) with the keys it writes (V .. V + K - 1). ``parent`` (V + K,) i8, each its own
    before; after, ``parent[v]`` is the lowest number of v's component."""
    for transaction in range(len(senders)):
        for pin in range(write_starts[transaction], write_starts[transaction + 1]):
            left = senders[transaction]
            right = sender_count + writes[pin]
            while parent[left] != left:
                parent[left] = parent[parent[left]]
                left = parent[left]
            while parent[right] != right:
                parent[right] = parent[parent[right]]
                right = parent[right]
            if left < right:
                parent[right] = left
            elif right < left:
                parent[left] = right
    for vertex in range(len(parent)):
        parent[vertex] = parent[parent[vertex]]  # a lower number, and so done already


def owned_round(
    remaining: Array,
    senders: Array,
    shard: Array,
    read_starts: Array,
    reads: Array,
    write_starts: Array,
    writes: Array,
    edge_of: Array,
    counts: Array,
    owner: Array,
    dropped: Array,
    number: int,
    rounds: Array,
    rest: Array,
) -> int:
    """One round of those ``remaining``: a written key belongs to the shard that has most transactions on it, and who
    touches a key of another shard is dropped, its sender's later ones with it.

    ``edge_of`` (K,) i8: a key's number among those that are shared and that somebody writes, or -1. ``counts`` (E, S) i4
    and ``owner`` (E,) i8 are scratch; ``dropped`` (V,) i8: the last round in which something of the sender was dropped.
    Those kept get ``number`` in ``rounds``, the others are put into ``rest``, and their number is answered.
    """
    shards = counts.shape[1]
    for edge in range(counts.shape[0]):
        for place in range(shards):
            counts[edge, place] = 0
    for transaction in remaining:
        here = shard[transaction]
        for pin in range(read_starts[transaction], read_starts[transaction + 1]):
            if edge_of[reads[pin]] >= 0:
                counts[edge_of[reads[pin]], here] += 1
        for pin in range(write_starts[transaction], write_starts[transaction + 1]):
            if edge_of[writes[pin]] >= 0:
                counts[edge_of[writes[pin]], here] += 1
    for edge in range(counts.shape[0]):
        best = 0
        for place in range(1, shards):
            if counts[edge, place] > counts[edge, best]:
                best = place
        owner[edge] = best
    left = 0
    for transaction in remaining:
        sender = senders[transaction]
        here = shard[transaction]
        keep = dropped[sender] != number
        for pin in range(read_starts[transaction], read_starts[transaction + 1]):
            edge = edge_of[reads[pin]]
            if edge >= 0 and owner[edge] != here:
                keep = False
        for pin in range(write_starts[transaction], write_starts[transaction + 1]):
            edge = edge_of[writes[pin]]
            if edge >= 0 and owner[edge] != here:
                keep = False
        if keep:
            rounds[transaction] = number
        else:
            dropped[sender] = number
            rest[left] = transaction
            left += 1
    return left


def messages(
    order: Array,
    shard: Array,
    read_starts: Array,
    reads: Array,
    write_starts: Array,
    writes: Array,
    writer: Array,
    told: Array,
    hops: Array,
    out: Array,
) -> int:
    """The values that cross, along ``order``.

    ``writer`` (K,) filled with -1: the last that wrote a key. ``told`` (K, S / 32 rounded up) i8 zeros: a bit for each
    shard that has its value. ``hops`` (K,) i8 zeros: after, messages in the longest chain that led to each key's value.
    ``out`` (m, 4) i8: writer, key, shard and reader of each, or (0, 4) to count them only; answers m.
    """
    count = 0
    room = out.shape[0]
    words = told.shape[1]
    for transaction in order:
        here = shard[transaction]
        bit = 1 << (here & 31)
        longest = 0
        for pin in range(read_starts[transaction], read_starts[transaction + 1]):
            key = reads[pin]
            last = writer[key]
            if last < 0:
                continue
            chain = hops[key]
            if shard[last] != here:
                chain += 1
                if told[key, here >> 5] & bit == 0:
                    told[key, here >> 5] |= bit
                    if count < room:
                        out[count, 0] = last
                        out[count, 1] = key
                        out[count, 2] = here
                        out[count, 3] = transaction
                    count += 1
            longest = max(longest, chain)
        for pin in range(write_starts[transaction], write_starts[transaction + 1]):
            key = writes[pin]
            writer[key] = transaction
            hops[key] = longest
            for word in range(words):
                told[key, word] = 0
    return count


def spread(shard: Array, starts: Array, keys: Array, seen: Array) -> int:
    """New pairs of a key and a shard that touches it, of the keys in ``starts`` and ``keys`` (by transaction). ``seen``
    (K, S / 32 rounded up) i8 has a bit for each; it goes on from call to call."""
    pairs = 0
    for transaction in range(len(shard)):
        here = shard[transaction]
        bit = 1 << (here & 31)
        for pin in range(starts[transaction], starts[transaction + 1]):
            key = keys[pin]
            if seen[key, here >> 5] & bit == 0:
                seen[key, here >> 5] |= bit
                pairs += 1
    return pairs
