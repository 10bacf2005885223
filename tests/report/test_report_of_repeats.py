"""What the report says of repeats."""

import re

import numpy as np
import pytest
from conftest import find, still_model
from test_report_of_members import columns_of

import mei_lightning as ml
from mei_lightning.analysis.repeats import repeats_table


@pytest.mark.slow
@pytest.mark.pictures
def test_the_section_has_a_row_for_each_repeat(tmp_path):
    find(still_model(), list(range(5)), repeats=2, directory=tmp_path, search="quick", norm=2.0)
    page, meis = ml.write_report(tmp_path / "meis.zarr").read_text(encoding="utf-8"), ml.open_repeats(tmp_path)
    assert '<a href="#repeats">Repeats</a>' in page
    rows = re.findall(r'<tr><th scope="row">(\d)</th>(.*?)</tr>', page)
    table = repeats_table(meis)
    assert [int(number) for number, _ in rows] == [1, 2]
    for number, cells in rows:
        values = re.findall("<td>(.*?)</td>", cells)
        assert values[:2] == ["5", f"{table.loc[int(number), 'as_good']:.4g}"]
    columns = columns_of(page)
    np.testing.assert_allclose(columns["chance_of_better"]["values"], meis["chance_of_better"], rtol=1e-5)
    assert columns["optima"]["values"] == meis["optima"].values.tolist()
