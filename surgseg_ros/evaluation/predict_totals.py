# SPDX-License-Identifier: Apache-2.0
"""The counts of a run of `predict`, and their summary."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from surgseg_ros.core.results import Decision


class Failure(NamedTuple):
    """
    A frame that the network could not process.

    :param path: path of its mask, which is NO_DECISION everywhere.
    :param size: (H, W) of the frame in pixels.
    :param reason: the reason, as a text.
    """

    path: Path
    size: tuple[int, int]
    reason: str


@dataclass
class Totals:
    """
    The counts of a run.

    :param sizes: number of masks that were written, by size.
    :param found: number of masks that existed already.
    :param undecided: number of written masks that are NO_DECISION, by reason code.
    :param warnings: number of other masks with a warning, by its code.
    :param losses: a text for each missing or damaged frame or range of the videos.
    :param failures: the frames that the network could not process.
    """

    sizes: Counter[str] = field(default_factory=Counter)
    found: int = 0
    undecided: Counter[str] = field(default_factory=Counter)
    warnings: Counter[str] = field(default_factory=Counter)
    losses: list[str] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)

    def add(self, decision: Decision) -> None:
        """
        Count a mask.

        :param decision: decision of the mask.
        """
        height, width = decision.mask.shape
        self.sizes[f'{width}x{height}'] += 1
        if decision.is_decided:
            self.warnings.update({warning.code.value for warning in decision.warnings})
        else:
            self.undecided[decision.code] += 1

    def __str__(self) -> str:
        """Describe the counts."""
        written = ', '.join(
            f'{count} mask{"s"[count == 1 :]} of {size}' for size, count in self.sizes.items()
        )
        there = f' ({self.found} existed already)' if self.found else ''
        return f'{written or "no new masks"}{there}'

    def warning_line(self) -> str:
        """Count the masks that cannot be trusted, in one line; empty if there are none."""
        parts = ('without a decision', self.undecided), ('with warnings', self.warnings)
        return '; '.join(
            f'masks {what}: ' + ', '.join(f'{count} ({code})' for code, count in counts.items())
            for what, counts in parts
            if counts
        )

    def failure_line(self) -> str:
        """Describe frames that could not be processed, in one line; empty if there are none."""
        if not self.failures:
            return ''
        count, first = len(self.failures), self.failures[0]
        return (
            f'frames that could not be processed: {count}, first '
            f'{first.path.parts[-3]}/{first.path.stem}: {first.reason}'
        )
