"""Inner loops over a block's columns (see ``loops``): its hypergraph, its order, baselines, and what crosses."""

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


def span(
    order: Array,
    shard: Array,
    read_starts: Array,
    reads: Array,
    write_starts: Array,
    writes: Array,
    clock: Array,
    ready: Array,
    writer: Array,
    latency: int,
) -> int:
    """When the last shard is done if each runs its own in order, one a tick, and a value that crosses is there
    ``latency`` ticks after. ``clock`` (S,) and ``ready`` (K,) i8 zeros; ``writer`` (K,) i8 filled with -1: the shard that
    wrote last."""
    last = 0
    for transaction in order:
        here = shard[transaction]
        begins = clock[here]
        for pin in range(read_starts[transaction], read_starts[transaction + 1]):
            key = reads[pin]
            if writer[key] >= 0 and writer[key] != here:
                begins = max(begins, ready[key] + latency)
        clock[here] = begins + 1
        last = max(last, begins + 1)
        for pin in range(write_starts[transaction], write_starts[transaction + 1]):
            writer[writes[pin]] = here
            ready[writes[pin]] = begins + 1
    return last


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
