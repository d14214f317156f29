"""Where a run's totals are made: here, in the driver, from what all reward actors said of a step together."""

from __future__ import annotations

from collections.abc import Sequence

from rlrp.dialogue.types import Sample
from rlrp.protocols import Judgement, Totals
from rlrp.runtime.loop import Judges


class DriverTotals:
    """Judges whose totals do not depend on how many of them there are, nor on which judged what."""

    def __init__(self, judges: Judges, totals: Totals):
        self.judges, self.totals = judges, totals

    def judge(self, groups: Sequence[Sequence[Sample]]) -> list[list[Judgement]]:
        return self.totals.combine(groups, self.judges.judge(groups))
