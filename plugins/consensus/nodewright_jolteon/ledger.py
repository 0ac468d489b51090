"""Collecting votes on outcomes into certificates of the ledger. Pure.

Invariants: of each validator one vote counts for a height; a certificate is a quorum's on one outcome; memory is bounded by
``MAX_HEIGHTS`` above the committed block.
"""

from __future__ import annotations

from attrs import define, field

from nodewright_jolteon.formats import LedgerCertificate, LedgerVote, gathered
from nodewright_jolteon.validators import Epoch

MAX_HEIGHTS = 512


@define
class Ledger:
    epoch: Epoch
    committed: int = 0
    certificates: dict[int, LedgerCertificate] = field(factory=dict)
    _votes: dict[int, dict[int, LedgerVote]] = field(factory=dict)

    def voted(self, vote: LedgerVote) -> bool:
        """An authentic vote; False where the voter had signed another outcome of that height."""
        height = vote.info.block.height
        if not self.committed < height <= self.committed + MAX_HEIGHTS or height in self.certificates:
            return True
        votes = self._votes.setdefault(height, {})
        known = votes.setdefault(vote.voter, vote)
        if known.info != vote.info:
            return False
        equal = {voter: one.signature for voter, one in votes.items() if one.info == vote.info}
        if self.epoch.validators.power_of(equal) >= self.epoch.validators.quorum_power:
            self.certified(LedgerCertificate(vote.info, gathered(equal)))
        return True

    def certified(self, certificate: LedgerCertificate) -> None:
        """A valid one."""
        height = certificate.info.block.height
        if height > self.committed:
            self.certificates.setdefault(height, certificate)
            self._votes.pop(height, None)

    def up_to(self, height: int) -> None:
        """Committed."""
        self.committed = height
        self.certificates = {at: one for at, one in self.certificates.items() if at > height}
        self._votes = {at: votes for at, votes in self._votes.items() if at > height}
