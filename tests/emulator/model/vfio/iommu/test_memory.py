"""The mappings of an address space, compared with a plain table of addresses."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from luod.emulator.model.vfio.iommu.locked import LockedMemory
from luod.emulator.model.vfio.iommu.memory import AddressSpace, Area, NoMemory, Pages

SIZE = 24


def ranges(addresses: set[int]) -> list[tuple[int, int]]:
    """Returns the first and last addresses of neighbours."""
    firsts = sorted(address for address in addresses if address - 1 not in addresses)
    lasts = sorted(address for address in addresses if address + 1 not in addresses)
    return list(zip(firsts, lasts, strict=True))


@given(
    st.lists(st.tuples(st.sampled_from(["insert", "remove", "cut", "clear"]), st.integers(0, SIZE), st.integers(1, 6)))
)
def test_the_taken_ranges_are_those_with_mappings(steps: list[tuple[str, int, int]]) -> None:
    space, mapped = AddressSpace(), set[int]()
    for step, start, length in steps:
        wanted = set(range(start, start + length))
        match step:
            case "insert" if not wanted & mapped:
                pages = Pages(
                    NoMemory(length), None, LockedMemory().account(None, by_process=True), address=0, writable=True
                )
                space.insert(Area(start, length, pages, 0, True, True))
                mapped |= wanted
            case "remove":
                areas = list(space.overlapping(start, start + length - 1))
                gone = {address for area in areas for address in range(area.start, area.last + 1)}
                assert space.remove(areas) == len(gone)
                mapped -= gone
            case "cut":
                space.cut(start)
            case "clear":
                assert space.clear() == len(mapped)
                mapped.clear()
        assert list(space.taken.beyond(0)) == ranges(mapped)
        assert [address for area in space for address in range(area.start, area.last + 1)] == sorted(mapped)
        assert list(space.taken.beyond(start)) == [each for each in ranges(mapped) if each[1] >= start]
