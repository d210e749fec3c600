"""How much is tried: what each test of this room is told to find distinct, and does or fails."""

import test_hostile_commands
import test_hostile_config
import test_hostile_files
import test_hostile_functions

COUNTS = [
    test_hostile_commands.COUNTS,
    test_hostile_config.COUNTS,
    test_hostile_files.COUNTS,
    test_hostile_files.TABLES,
    test_hostile_functions.COUNTS,
    test_hostile_functions.BATCHES,
]


def test_enough_is_tried() -> None:
    """205 distinct inputs in the fast suite, 2,220 in the slow one."""
    assert sum(counts["fast"] for counts in COUNTS) >= 150
    assert sum(counts["slow"] for counts in COUNTS) >= 1500
