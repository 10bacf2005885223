"""What the report says of an ensemble and its members."""

import json
import re
import shutil

import numpy as np
import pytest
from browser import By, headless_chromium, needs_browser
from conftest import find, still_model

import mei_lightning as ml

NEURONS = list(range(5))


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """Results of two members and their ensemble."""
    place = tmp_path_factory.mktemp("members")
    ensemble = ml.Ensemble([still_model(0), still_model(1)])
    find(ensemble, NEURONS, per_member=True, directory=place, search="quick", norm=2.0)
    return place


@pytest.fixture(scope="module")
def report(directory):
    return ml.write_report(directory / "meis.zarr")


def columns_of(page):
    text = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)[1]
    return {column["key"]: column for column in json.loads(text)["columns"]}


@pytest.mark.slow
@pytest.mark.pictures
def test_the_section_has_a_row_for_each_member(directory, report):
    page, meis = report.read_text(encoding="utf-8"), ml.open_members(directory)
    assert "The MEIs are of an ensemble of 2 models" in page
    rows = re.findall(r'<tr><th scope="row">member (\d)</th>(.*?)</tr>', page)
    for member, (number, cells) in enumerate(rows):
        values = re.findall("<td>(.*?)</td>", cells)
        similarity = meis["member_similarity"].sel(mei="ensemble", other_mei=f"member {member}")
        on_it = meis["relative_score"].sel(model=f"member {member}", mei="ensemble")
        assert [number, *values[:3]] == [str(member), "5", *(f"{np.median(it):.4g}" for it in (similarity, on_it))]
    assert len(rows) == 2
    columns = columns_of(page)
    expected = meis["member_similarity"].values[:, 0, 1:].mean(axis=1)
    np.testing.assert_allclose(columns["similarity_to_members"]["values"], expected, rtol=1e-5)
    expected = meis["relative_score"].values[:, 1:, 0].mean(axis=1)
    np.testing.assert_allclose(columns["score_on_members"]["values"], expected, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.pictures
@needs_browser
def test_a_browser_shows_the_section(report, tmp_path):
    with headless_chromium(tmp_path) as browser:
        browser.get(report.resolve().as_uri())
        browser.find_element(By.LINK_TEXT, "Members").click()
        figure = browser.find_element(By.CSS_SELECTOR, "#members img")
        assert figure.is_displayed()
        assert browser.execute_script("return arguments[0].naturalWidth", figure) > 300
        assert [it for it in browser.get_log("browser") if it["level"] == "SEVERE"] == []


@pytest.mark.slow
@pytest.mark.pictures
def test_a_dataset_that_was_saved_has_the_section_as_well(directory, tmp_path):
    store = ml.save_dataset(ml.open_members(directory), tmp_path / "copy.zarr")
    assert "The MEIs are of an ensemble of 2 models" in ml.write_report(store).read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.pictures
def test_a_comparison_of_other_meis_is_left_out_with_a_warning(directory, tmp_path):
    shutil.copytree(directory, tmp_path / "results")
    shutil.rmtree(tmp_path / "results" / "member_0")
    with pytest.warns(UserWarning, match=r"members.zarr is older than these MEIs, or of others, and is left out"):
        page = ml.write_report(tmp_path / "results" / "meis.zarr", tmp_path / "other.html")
    assert 'id="members"' not in page.read_text(encoding="utf-8")
    # A member's own store is one of any run.
    page = ml.write_report(directory / "member_1" / "meis.zarr")
    assert 'id="members"' not in page.read_text(encoding="utf-8")
