# SPDX-License-Identifier: Apache-2.0
"""
Assigns packets of a video to frames, and finds missing frames.

Counting decoded frames would give every frame after damage too small a number. So frames are
numbered by data of the file: by the slots of an AVI file, by time stamps in other formats.
"""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import partial
from itertools import pairwise
from statistics import median
from typing import BinaryIO, Final

from surgseg_ros.evaluation.videos.containers import are_connected, is_complete, starts_complete
from surgseg_ros.evaluation.videos.fragments import find_lost_fragments
from surgseg_ros.evaluation.videos.packets import Contents, Gap, Numbering, Packet

_CHUNK_HEAD: Final = 8
"""Size of the header of an AVI chunk."""

_BLOCK_HEAD: Final = 4
"""Size of the header of a Matroska block: track (below 127), time, flags."""

_FLV_HEAD: Final = 13
"""Size of the FLV header, including the size field of the previous tag."""


def number_frames(contents: Contents) -> Numbering:
    """
    Assign packets to frames.

    :param contents: contents of the video.
    :return: the numbering.
    """
    with contents.path.open('rb') as file:
        connected = partial(are_connected, contents, file)
        if contents.format == 'avi':
            return _Avi(contents, connected).number()
        if any(x.pts is None for x in contents.packets):
            return _number_by_order(contents)
        return _Timed(contents, connected, file).number()


def _number_by_order(contents: Contents) -> Numbering:
    """Count the packets of an elementary stream, which has neither times nor numbers."""
    count = len(contents.packets)
    rate = contents.rates[0] if contents.rates else None
    times = () if rate else tuple(Fraction(n) for n in range(count))
    return Numbering(range(count), (), count, rate, times, by_output=not contents.is_intra_only)


class _Avi:
    """
    Numbers the frames of an AVI file, each of which has a slot.

    A slot contains a frame, or an empty chunk: then the previous frame is repeated. The index at
    the end of the file lists the slots. If it is missing or damaged, chunks are counted as long as
    they are contiguous.
    """

    def __init__(self, contents: Contents, connected: Callable[[int, int], bool]) -> None:
        self._contents = contents
        self._connected = connected
        self._slots = {entry.offset: entry.dts for entry in contents.entries}
        if not self._index_agrees():
            self._slots = {}

    def number(self) -> Numbering:
        """Create the numbering; see number_frames."""
        contents = self._contents
        frames, end_reason = self._slots_of_packets()
        known = [frame for frame in frames if frame is not None]
        taken = {*known, *self._slots.values()}
        count = max(contents.declared, max(taken, default=-1) + 1)
        gaps, repeats = self._fill(set(known), taken, count, end_reason)
        lost = [
            n
            for n, (before, slot) in enumerate(pairwise([-1, *known]))
            if any(between not in repeats for between in range(before + 1, slot))
        ]
        if end_reason is not None:
            lost.append(len(known))
        return Numbering(
            frames,
            tuple(gaps),
            count,
            1 / contents.time_base,
            repeats=repeats,
            lost_before=frozenset(lost),
            by_output=not contents.is_intra_only,
        )

    def _slots_of_packets(self) -> tuple[list[int | None], str | None]:
        """Return the slot of each packet, and the reason if slots are unknown from there on."""
        packets = self._contents.packets
        frames: list[int | None] = []
        before: Packet | None = None
        for packet in packets:
            slot = self._slots.get(packet.offset - _CHUNK_HEAD)
            if slot is None:
                if not self._follows(before, packet):
                    rest: list[int | None] = [None] * (len(packets) - len(frames))
                    return [*frames, *rest], (
                        'the file is damaged before it, and has no index by which the rest could '
                        'be numbered'
                    )
                slot = _next_slot(frames, before, packet)
            frames.append(slot)
            before = packet
        lacks_some = (frames[-1] or 0) + 1 < self._contents.declared
        if lacks_some and not self._slots and self._continues_after(packets[-1]):
            # In a truncated file, the last frames would be missing. Here, the missing ones are
            # unknown.
            reason = 'the file lacks frames, and has no index by which the others are numbered'
            return [None] * len(frames), reason
        return frames, None

    def _fill(
        self, known: set[int], taken: set[int], count: int, end_reason: str | None
    ) -> tuple[list[Gap], dict[int, int]]:
        """Distinguish slots that are empty on purpose from slots of lost frames."""
        gaps: list[Gap] = []
        repeats: dict[int, int] = {}
        last, shown = max(known, default=-1), -1
        for slot in range(last + 1):
            if slot in known:
                shown = slot
            elif slot in taken or shown < 0:
                gaps.append(Gap(slot, slot, 'its place in the file is damaged'))
            else:
                repeats[slot] = shown
        if end_reason is not None:
            gaps.append(Gap(last + 1, count - 1 if count > last + 1 else None, end_reason))
        elif last + 1 < count:
            gaps.append(Gap(last + 1, count - 1, _ends_early(count)))
        elif not self._contents.declared and not self._is_complete():
            gaps.append(Gap(count, None, 'the file ends in the middle of an element'))
        return _joined(gaps), repeats

    def _index_agrees(self) -> bool:
        """Return whether index and chunks agree on what is adjacent."""
        indexed: tuple[int, int] | None = None
        before: Packet | None = None
        for packet in self._contents.packets:
            if not self._follows(before, packet):
                indexed = None
            before, dts = packet, packet.dts or 0
            slot = self._slots.get(packet.offset - _CHUNK_HEAD)
            if slot is None:
                continue
            if indexed is not None and slot - indexed[0] != dts - indexed[1]:
                return False
            indexed = slot, dts
        return True

    def _follows(self, before: Packet | None, packet: Packet) -> bool:
        start = 0 if before is None else _end(before)
        return self._connected(start, packet.offset - _CHUNK_HEAD)

    def _continues_after(self, packet: Packet) -> bool:
        return _end(packet) < self._contents.path.stat().st_size and self._is_complete()

    def _is_complete(self) -> bool:
        end = self._contents.path.stat().st_size
        return self._connected(_end(self._contents.packets[-1]), end)


def _end(packet: Packet) -> int:
    return packet.offset + packet.size + packet.size % 2


def _next_slot(frames: Sequence[int | None], before: Packet | None, packet: Packet) -> int:
    """Return the slot after a packet; FFmpeg also counts empty chunks in `dts`."""
    dts = packet.dts or 0
    if before is None or not frames or frames[-1] is None:
        return dts
    return frames[-1] + dts - (before.dts or 0)


class _Timed:
    """
    Numbers frames by their time stamps.

    If the time stamps are on a grid of a constant rate, the number is the position on the grid; if
    not, it is the position in the order of time. A grid with gaps is either a video of variable
    rate, or one that has lost frames: if nothing in the file is damaged, it is the former.
    """

    def __init__(
        self, contents: Contents, connected: Callable[[int, int], bool], file: BinaryIO
    ) -> None:
        self._contents = contents
        self._connected = connected
        self._file = file
        shown = [n for n, packet in enumerate(contents.packets) if packet.is_shown]
        self._order = sorted(shown, key=lambda n: (contents.packets[n].pts or 0, n))
        self._pts = [contents.packets[n].pts or 0 for n in self._order]
        self._reordered = max((abs(a - b) for a, b in zip(shown, self._order)), default=0)
        self._undelivered = self._find_undelivered()
        self._fragments = (
            find_lost_fragments(file, contents.streams.name) if contents.format == 'mov' else None
        )
        self._grid = self._find_grid()
        self._first_element = _FLV_HEAD if contents.format == 'flv' else 0
        self._is_cut = not self._is_complete()

    def number(self) -> Numbering:
        """Create the numbering; see number_frames."""
        indices = list(range(len(self._order)))
        rate, slots = self._grid or (None, indices)
        breaks = self._breaks()
        if rate is not None and slots != indices and not self._explained(slots, breaks):
            rate, slots = None, indices
        known = len(slots)
        if uncertain := [n for n in breaks if rate is None or self._is_uncertain(slots, n)]:
            known = self._certain(uncertain[0])
        return self._numbering(rate, slots, known, breaks)

    def _numbering(
        self, rate: Fraction | None, slots: list[int], known: int, breaks: list[int]
    ) -> Numbering:
        frames: list[int | None] = [None] * len(self._contents.packets)
        for slot, number in zip(slots[:known], self._order):
            frames[number] = slot
        gaps = [
            Gap(a + 1, b - 1, 'its place in the file is damaged')
            for a, b in pairwise(slots[:known])
            if b > a + 1
        ]
        count = slots[known - 1] + 1 if known else 0
        if tail := self._tail(rate, count, known < len(slots)):
            gaps.append(tail)
            count = count if tail.last is None else tail.last + 1
        times: list[Fraction] = []
        if rate is None:
            base = self._contents.time_base
            times = [(pts - self._pts[0]) * base for pts in self._pts[:known]]
            times += times[-1:] * (count - len(times))
        lost = frozenset(breaks)
        return Numbering(frames, tuple(gaps), count, rate, times, lost_before=lost)

    def _find_grid(self) -> tuple[Fraction, list[int]] | None:
        """Find the rate at which the frames have the smallest distinct numbers."""
        base = self._contents.time_base
        steps = [b - a for a, b in pairwise(self._pts)]
        rates = set(self._contents.rates)
        if steps and median(steps) > 0:
            rates.add(1 / (Fraction(median(steps)) * base))
        after = [pts - self._pts[0] for pts in self._pts]
        for rate in sorted(rates):
            # In integers: fractions would take seconds for an hour of video.
            above, below = (base * rate).as_integer_ratio()
            slots = [(2 * pts * above + below) // (2 * below) for pts in after]
            near = min(base * rate, Fraction(1, 4)) * below
            if all(a < b for a, b in pairwise(slots)) and all(
                abs(pts * above - slot * below) <= near for pts, slot in zip(after, slots)
            ):
                return rate, slots
        return None

    def _find_undelivered(self) -> list[int]:
        """Find the dts of frames that are only in the index of an MP4 file."""
        if self._contents.format != 'mov':
            return []
        offsets = {packet.offset for packet in self._contents.packets}
        return [entry.dts for entry in self._contents.entries if entry.offset not in offsets]

    def _breaks(self) -> list[int]:
        """
        Find the packets before which frames are lost, as far as the format shows it.

        Between frames without a gap in time, nothing is lost.
        """
        packets = self._contents.packets
        whole = self._grid is not None and self._grid[1] == list(range(len(self._order)))
        if self._contents.format in ('matroska', 'flv'):
            ends = [self._first_element, *map(self._element_end, packets)]
            uncertain = range(1 if self._begins_at_zero() else 0, 1 if whole else len(packets))
            return [n for n in uncertain if not self._connected(ends[n], packets[n].offset)]
        end = [len(packets)] if self._undelivered else []
        if self._fragments:
            find = partial(bisect_left, [packet.offset for packet in packets])
            return [n for n in map(find, self._fragments.lost_before) if n < len(packets)] + end
        if end:
            return end
        if self._contents.format == 'mov' and (self._contents.declared or self._is_complete()):
            return []
        # Other formats do not show it: a gap in the grid is considered a loss.
        slots = self._grid[1] if self._grid else []
        start = [] if self._starts_complete() else [0]
        return start + sorted(self._order[position] for position in _jumps(slots))

    def _starts_complete(self) -> bool:
        """
        Return whether an MPEG transport stream may be complete from its first frame on.

        Then this is a key frame, and no frame is shown before it, which would refer to a lost one.
        """
        first = self._contents.packets[0]
        has_keys = any(packet.is_key for packet in self._contents.packets)
        if self._contents.format != 'mpegts' or not has_keys:
            return True
        is_first = first.is_key and first.pts == self._pts[0]
        return is_first and starts_complete(self._contents, self._file)

    def _begins_at_zero(self) -> bool:
        rate = self._grid[0] if self._grid else max(self._contents.rates, default=Fraction(30))
        return self._pts[0] * self._contents.time_base * rate < 1

    def _explained(self, slots: Sequence[int], breaks: Sequence[int]) -> bool:
        """Return whether something is lost near each gap in the grid."""
        # In a truncated file, frames that are later in the file are lost, too.
        lost = [*breaks, *([len(self._contents.packets)] if self._is_cut else [])]
        return all(self._is_near(position, lost) for position in _jumps(slots))

    def _is_near(self, position: int, breaks: Sequence[int]) -> bool:
        """Return whether something is lost near a position in the order of display."""
        sides = self._order[position - 1], self._order[position]
        low, high = min(sides) - self._reordered, max(sides) + self._reordered
        return any(low < number <= high for number in breaks)

    def _is_uncertain(self, slots: Sequence[int], lost: int) -> bool:
        """Return whether the number of lost frames is unknown, since no time stamp shows it."""
        if lost == 0 or self._fragments is None or lost == len(self._contents.packets):
            return lost == 0
        return not any(self._is_near(position, [lost]) for position in _jumps(slots))

    def _certain(self, lost: int) -> int:
        """Count the frames that are shown before all frames after the position of a loss."""
        packets = self._contents.packets
        behind = [x.pts or 0 for x in packets[lost:] if x.is_shown]
        if lost and (dts := packets[lost - 1].dts) is not None:
            behind.append(dts + 1)  # the earliest time of the loss
        return bisect_left(self._pts, min((*behind, *self._undelivered)))

    def _tail(self, rate: Fraction | None, count: int, is_uncertain: bool) -> Gap | None:
        """Return the gap at the end, if there is one."""
        if self._undelivered and not self._fragments:
            total = len(self._contents.entries)
            return Gap(count, total - 1, _ends_early(total)) if total > count else None
        if is_uncertain:
            before = 'the file is damaged before it' if count else 'the file lacks its beginning'
            return Gap(count, None, f'{before}, and the rest cannot be numbered')
        is_cut = self._is_cut or not is_complete(self._contents, self._file)
        if not is_cut and self._contents.format != 'flv':
            return None
        if self._contents.format == 'mov' and self._contents.declared and not self._fragments:
            return None  # all frames of its index exist
        declared_s = self._contents.duration_s
        if declared_s is not None and self._contents.format == 'flv':  # counted from time 0
            declared_s -= self._pts[0] * self._contents.time_base
        if rate is not None and declared_s is not None and round(declared_s * rate) > count:
            total = round(declared_s * rate)
            return Gap(count, total - 1, _ends_early(total))
        return Gap(count, None, 'the file is cut off, or damaged, there') if is_cut else None

    def _is_complete(self) -> bool:
        last = max(self._contents.packets, key=lambda packet: packet.offset)
        end = self._contents.path.stat().st_size
        if self._fragments:
            known = all(position <= last.offset for position in self._fragments.lost_before)
            return known and not self._fragments.is_cut and not self._undelivered
        return self._connected(
            0 if self._contents.format == 'mov' else self._element_end(last), end
        )

    def _element_end(self, packet: Packet) -> int:
        """Return a position after a frame at which an element starts; in FLV, its own tag's."""
        return packet.offset if self._contents.format == 'flv' else _block_end(packet)


def _block_end(packet: Packet) -> int:
    """Return the end of a Matroska block; FFmpeg's position is that of its track number."""
    return packet.offset + _BLOCK_HEAD + packet.size


def _jumps(slots: Sequence[int]) -> list[int]:
    """Return the positions after gaps in the grid."""
    return [position for position, (a, b) in enumerate(pairwise(slots), 1) if b > a + 1]


def _ends_early(count: int) -> str:
    return f'the header declares {count} frames, and the file ends before: it may be cut off'


def _joined(gaps: Sequence[Gap]) -> list[Gap]:
    """Merge adjacent gaps of the same reason."""
    joined: list[Gap] = []
    for gap in gaps:
        if joined and joined[-1].last == gap.first - 1 and joined[-1].reason == gap.reason:
            gap = Gap(joined.pop().first, gap.last, gap.reason)
        joined.append(gap)
    return joined
