"""What the table of contents knows of the names that it has had."""

from __future__ import annotations

from drivers.stargz.names import Names


def test_of_a_hundred_thousand_names_only_those_that_occur_twice_are_looked_at_again() -> None:
    """Some hundreds of them share a bit with another: to look at these would read the whole table once more."""
    names = Names()
    for number in range(100_000):
        names.add(f"usr/lib/file-{number}", directory=False)
    assert names.suspects() == {}
    names.add("usr/lib/file-7", directory=False)
    assert list(names.suspects()) == [7, 100_000]
