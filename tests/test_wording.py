"""Words that messages have in common."""

from mei_lightning.wording import first_few, how_many


def test_a_long_list_is_cut_and_counted():
    assert first_few(["a", "b"]) == "a, b"
    assert first_few(range(4), most=4) == "0, 1, 2, 3"
    assert first_few(range(12)) == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9, ... (12 in all)"
    assert first_few([]) == ""


def test_how_many_of_how_many():
    assert [how_many(1, 1), how_many(3, 3), how_many(1, 3)] == ["1 neuron", "3 neurons", "1 of 3 neurons"]
