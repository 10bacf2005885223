"""Words that messages have in common."""

from mei_lightning.wording import first_few


def test_a_long_list_is_cut_and_counted():
    assert first_few(["a", "b"]) == "a, b"
    assert first_few(range(4), most=4) == "0, 1, 2, 3"
    assert first_few(range(12)) == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9, ... (12 in all)"
    assert first_few([]) == ""
