"""The report: what is in the page, and what a browser makes of it."""

import base64
import io
import json
import re
import warnings
import zlib

import numpy as np
import pytest
import xarray as xr
from browser import By, Keys, Select, WebDriverWait, headless_chromium, needs_browser, requests
from conftest import find, still_model, video_model
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import mei_lightning as ml
from mei_lightning.cli.main import main
from mei_lightning.report import records
from mei_lightning.report.records import coarse, encode, pixels_that_fit
from mei_lightning.results.schema import VARIABLES, Variable

HOSTILE = "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>&amp;"
TYPES = ("alpha", "beta", HOSTILE)
STATUSES = ("converged", "converged", "step limit", "converged", "pending")


def make_meis(count=15, channels=("green", "UV"), time_steps=8, height=6, width=5, seed=0):
    """A dataset as of a run: every fifth neuron is pending."""
    random = np.random.default_rng(seed)
    stimuli = random.standard_normal((count, len(channels), time_steps, height, width)).astype(np.float32)
    frames_lost = 0 if time_steps == 1 else 3
    scores = random.uniform(1, 9, count)
    restarts = np.stack([scores, scores * random.uniform(0.5, 1, count), np.full(count, np.nan)], axis=1)
    statuses = [STATUSES[number % 5] for number in range(count)]
    pending = np.array([status == "pending" for status in statuses])
    stimuli[pending], scores[pending], restarts[pending] = np.nan, np.nan, np.nan
    attrs = {"model": "a & b", "weights_digest": "abc", "frames_lost": frames_lost, "score": "MeanReducer(axis=0)"}
    return xr.Dataset(
        {
            "stimulus": (("neuron", "channel", "time", "y", "x"), stimuli),
            "score": ("neuron", scores),
            "status": ("neuron", statuses),
            "response": (("neuron", "response_time"), random.random((count, time_steps - frames_lost))),
            "restart_scores": (("neuron", "restart"), restarts),
            "restart_similarity": ("neuron", np.where(pending, np.nan, random.random(count))),
            "score_spread": ("neuron", np.where(pending, np.nan, random.random(count))),
            "steps": ("neuron", np.arange(count)),
        },
        coords={
            "neuron": [f"day_{number % 2}/{number}" for number in range(count)],
            "session": ("neuron", [f"day_{number % 2}" for number in range(count)]),
            "index": ("neuron", np.arange(count)),
            "channel": list(channels),
            "time": np.arange(time_steps) / 30,
            "y": ("y", np.arange(height) * 50.0, {"units": "um"}),
            "x": ("x", np.arange(width) * 50.0, {"units": "um"}),
            "response_time": np.arange(frames_lost, time_steps) / 30,
            "restart": np.arange(3),
        },
        attrs=attrs | {"configuration": json.dumps(attrs)} | ({"frame_rate": 30.0} if time_steps > 1 else {}),
    )


def make_store(directory, types=TYPES, **options):
    """A store of MEIs, with an analysis of it, by the package's own functions, beside it if there are types."""
    meis = make_meis(**options)
    store = ml.save_dataset(meis, directory / "meis.zarr")
    if types:
        analysis = ml.measure_meis(meis, progress_bar=False)
        names = np.array([types[number % len(types)] for number in range(meis.sizes["neuron"])])
        analysis = analysis.assign_coords(type=("neuron", names))
        analysis.drop_encoding().to_zarr(directory / "analysis.zarr", zarr_format=2)
    return store


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with headless_chromium(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def report(store):
    return ml.write_report(store)


@pytest.fixture
def page(browser, report):
    return show(browser, report)


def show(browser, report):
    browser.get_log("browser")
    requests(browser)
    browser.get(report.resolve().as_uri())
    return browser


def named(page, name):
    return page.find_element(By.ID, name)


def shown(page):
    """Labels of the cards that are to be seen, in their order."""
    script = "return [...document.querySelectorAll('#gallery li:not([hidden]) .name')].map((it) => it.textContent)"
    return page.execute_script(script)


def choose_filter(page, column, text):
    Select(page.find_element(By.CSS_SELECTOR, f"select.filter[data-column={column}]")).select_by_visible_text(text)


def condition(page, number, column, low=None, high=None):
    it = page.find_elements(By.CSS_SELECTOR, ".condition")[number]
    Select(it.find_element(By.TAG_NAME, "select")).select_by_value(column)
    for name, value in (("low", low), ("high", high)):
        if value is not None:
            it.find_element(By.CLASS_NAME, name).send_keys(str(value))
    return it


def eventually(page, script, *arguments):
    return WebDriverWait(page, 60).until(lambda it: it.execute_script(script, *arguments))


def pixels(page, canvas):
    """The red, green and blue of a canvas [height, width, 3]."""
    script = """const c = arguments[0];
    return [c.height, c.width, [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]]"""
    height, width, values = page.execute_script(script, canvas)
    return np.array(values).reshape(height, width, 4)[..., :3]


@pytest.mark.slow
@needs_browser
def test_page_opens_with_all_neurons_and_asks_no_network_for_anything(page):
    labels = make_meis()["neuron"].values.tolist()
    assert shown(page) == labels
    assert named(page, "count").text == "15 of 15 neurons"
    eventually(page, "return [...document.images].every((it) => it.complete && it.naturalWidth > 0)")
    assert len(page.find_elements(By.CSS_SELECTOR, "figure img")) == 4
    assert [it for it in page.get_log("browser") if it["level"] == "SEVERE"] == []
    urls = requests(page)
    assert sum(url.startswith("file:") for url in urls) == 1
    assert {url.split(":")[0] for url in urls} <= {"file", "data"}


@pytest.fixture
def phone(browser, report):
    metrics = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    yield show(browser, report)
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


WIDER = """return [...document.querySelectorAll(arguments[0])].filter((it) => {
    const place = it.getBoundingClientRect();
    return place.width > 0 && (place.right > 390.5 || place.left < -0.5) && !it.closest(arguments[1]);
}).map((it) => it.outerHTML.slice(0, 80))"""


@pytest.mark.slow
@needs_browser
def test_the_page_fits_a_phone(phone):
    eventually(phone, "return [...document.images].every((it) => it.complete && it.naturalWidth > 0)")
    named(phone, "add-condition").click()
    assert phone.execute_script("return window.innerWidth") == 390
    assert phone.execute_script("return document.documentElement.scrollWidth") <= 390
    # What is wider scrolls by itself.
    assert phone.execute_script(WIDER, "body *", ".scroll, figure, dialog") == []
    assert phone.execute_script("return getComputedStyle(document.querySelector('form')).position") == "static"
    widths = phone.execute_script("return [...document.querySelectorAll('#figures img')].map((it) => it.width)")
    assert min(widths) > 500

    one_condition = "document.querySelectorAll('.condition')[1].remove(); return arguments[0].offsetHeight"
    assert phone.execute_script(one_condition, named(phone, "controls")) < 844 / 3
    edges = "return [...document.querySelectorAll('.condition input')].map((it) => it.getBoundingClientRect().top)"
    low, high = phone.execute_script(edges)
    assert low == high

    phone.execute_script("document.querySelector('#gallery .card').click()")
    eventually(phone, "return document.getElementById('neuron').open")
    assert phone.execute_script(WIDER, "dialog, dialog *", ".scroll") == []
    assert (
        phone.execute_script("const it = document.getElementById('neuron'); return it.scrollWidth - it.clientWidth")
        == 0
    )


@needs_browser
def test_no_label_is_code(page):
    assert page.execute_script("return window.hacked") is None
    assert page.execute_script("return [...document.images].every((it) => it.src.startsWith('data:image/svg+xml'))")
    choices = Select(page.find_element(By.CSS_SELECTOR, "select.filter[data-column=type]")).options
    assert HOSTILE in [it.get_attribute("textContent") for it in choices]
    assert HOSTILE in named(page, "tables").get_attribute("textContent")
    assert page.title == "MEIs of a & b"


@needs_browser
@pytest.mark.parametrize("column", ["score", "neuron", "type", "steps", "temporal_frequency_UV"])
def test_sorting(page, store, column):
    meis = make_meis()
    analysis = xr.open_zarr(store.parent / "analysis.zarr", chunks=None)
    table = ml.measures_table(analysis.assign(steps=meis["steps"]))
    table = table.reset_index()
    known = table[table[column].notna()]
    rest = table["neuron"][table[column].isna()].tolist()
    for descending in (False, True):
        Select(named(page, "sort")).select_by_value(column)
        if named(page, "descending").is_selected() != descending:
            named(page, "descending").click()
        expected = known.sort_values(column, ascending=not descending, kind="stable")["neuron"].tolist()
        assert shown(page) == expected + rest


@pytest.mark.slow
@needs_browser
def test_filtering(page, store):
    meis = make_meis().load()
    labels = meis["neuron"].values
    types = np.array([TYPES[number % 3] for number in range(15)])

    choose_filter(page, "session", "day_1")
    assert shown(page) == labels[meis["session"].values == "day_1"].tolist()
    choose_filter(page, "type", "beta")
    both = (meis["session"].values == "day_1") & (types == "beta")
    assert shown(page) == labels[both].tolist()
    choose_filter(page, "status", "step limit")
    assert shown(page) == labels[both & (meis["status"].values == "step limit")].tolist()
    named(page, "reset").click()
    WebDriverWait(page, 60).until(lambda it: len(shown(it)) == 15)

    choose_filter(page, "type", HOSTILE.replace("  ", " "))
    assert shown(page) == labels[types == HOSTILE].tolist()
    named(page, "reset").click()
    WebDriverWait(page, 60).until(lambda it: len(shown(it)) == 15)

    scores = meis["score"].values
    condition(page, 0, "score", low=3, high=7)
    between = (scores >= 3) & (scores <= 7)
    assert 0 < between.sum() < 15
    assert shown(page) == labels[between].tolist()
    assert named(page, "count").text == f"{between.sum()} of 15 neurons"
    named(page, "add-condition").click()
    condition(page, 1, "steps", low=6)
    assert shown(page) == labels[between & (np.arange(15) >= 6)].tolist()
    named(page, "search").send_keys("DAY_0")
    assert shown(page) == labels[between & (np.arange(15) >= 6) & (np.arange(15) % 2 == 0)].tolist()
    named(page, "search").send_keys("nothing like it")
    assert shown(page) == []
    named(page, "reset").click()
    WebDriverWait(page, 60).until(lambda it: len(shown(it)) == 15)

    polarity = xr.open_zarr(store.parent / "analysis.zarr", chunks=None)["polarity"].values
    it = condition(page, 0, "polarity")
    Select(it.find_element(By.CLASS_NAME, "word")).select_by_visible_text("OFF")
    assert shown(page) == labels[polarity == "OFF"].tolist()


@pytest.mark.slow
@needs_browser
def test_a_neuron_opens_with_its_details_by_keyboard(page, store):
    meis = make_meis()
    Select(named(page, "sort")).select_by_value("score")
    named(page, "descending").click()
    order = shown(page)
    first = page.find_element(By.CSS_SELECTOR, "#gallery li:not([hidden]) .card")
    page.execute_script("arguments[0].focus()", first)
    first.send_keys(Keys.ENTER)
    eventually(page, "return document.getElementById('neuron').open")
    assert named(page, "neuron-title").text == order[0]
    best = meis.sel(neuron=order[0])
    table = ml.measures_table(xr.open_zarr(store.parent / "analysis.zarr", chunks=None)).loc[order[0]]
    rows = {
        it.find_element(By.TAG_NAME, "th").text: it.find_element(By.TAG_NAME, "td").text for it in measure_rows(page)
    }
    assert float(rows["score"]) == pytest.approx(float(best["score"]), rel=1e-3)
    assert float(rows["temporal frequency UV"].split()[0]) == pytest.approx(table["temporal_frequency_UV"], rel=1e-3)
    assert rows["temporal frequency UV"].endswith("Hz")
    assert rows["polarity"] == table["polarity"]
    body = named(page, "neuron-body").text
    assert "given up early" in body
    assert f"{float(best['restart_scores'][1]):.4g}"[:4] in body
    plots = page.find_elements(By.CSS_SELECTOR, "#neuron-body svg")
    assert [it.get_attribute("aria-label") for it in plots] == [
        "Course of the first component in time",
        "Response to the stimulus over time",
    ]
    points = plots[1].find_element(By.TAG_NAME, "polyline").get_attribute("points").split()
    heights = [-float(point.split(",")[1]) for point in points]
    np.testing.assert_allclose(np.corrcoef(heights, best["response"].values)[0, 1], 1, atol=1e-4)

    page.switch_to.active_element.send_keys(Keys.ARROW_RIGHT)
    eventually(page, "return document.getElementById('neuron-title').textContent === arguments[0]", order[1])
    page.switch_to.active_element.send_keys(Keys.ESCAPE)
    eventually(page, "return !document.getElementById('neuron').open")
    eventually(page, "return document.activeElement.querySelector('.name')?.textContent === arguments[0]", order[1])


def measure_rows(page):
    return page.find_elements(By.CSS_SELECTOR, "#neuron-body > div:last-child tr")


@needs_browser
def test_movies_show_the_stimulus(page):
    stimulus = make_meis()["stimulus"].values[0]
    frames = ml.plots.frames.stimulus_to_rgb_frames(stimulus)
    canvas = page.find_element(By.CSS_SELECTOR, "#gallery canvas")
    # Without motion, a card rests at the frame of largest power.
    peak = np.square(stimulus).sum(axis=(0, 2, 3)).argmax()
    WebDriverWait(page, 60).until(lambda it: np.ptp(pixels(it, canvas)) > 0)
    np.testing.assert_allclose(pixels(page, canvas), frames[peak], atol=1)

    page.find_element(By.CSS_SELECTOR, "#gallery .card").click()
    eventually(page, "return document.getElementById('neuron').open")
    together, green, uv = page.find_elements(By.CSS_SELECTOR, "#neuron-body .tiles:first-of-type canvas")[:3]
    slider = page.find_element(By.CSS_SELECTOR, "#neuron-body input[type=range]")
    for time_step in (0, 5):
        script = "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input'))"
        page.execute_script(script, slider, time_step)
        np.testing.assert_allclose(pixels(page, together), frames[time_step], atol=1)
        np.testing.assert_allclose(pixels(page, green)[..., 0], frames[time_step, ..., 1], atol=1)
        np.testing.assert_allclose(pixels(page, uv)[..., 0], frames[time_step, ..., 2], atol=1)
    named(page, "close").click()

    rest = pixels(page, canvas)
    named(page, "play").click()
    WebDriverWait(page, 60).until(lambda it: (pixels(it, canvas) != rest).any())
    named(page, "play").click()
    np.testing.assert_array_equal(pixels(page, canvas), rest)


def test_each_card_has_the_strongest_frame_until_its_movie_runs(report):
    meis = make_meis()
    posters = re.findall(r'data-poster="(.*?)"', report.read_text(encoding="utf-8"))
    assert [poster == "" for poster in posters] == (meis["status"] == "pending").values.tolist()
    for stimulus, poster in zip(meis["stimulus"].values, posters, strict=True):
        if poster:
            peak = np.square(stimulus).sum(axis=(0, 2, 3)).argmax()
            found = np.asarray(Image.open(io.BytesIO(base64.b64decode(poster))))
            np.testing.assert_array_equal(found, ml.plots.frames.stimulus_to_rgb_frames(stimulus)[peak])


def test_the_strongest_frame_of_many_channels_has_them_side_by_side():
    stimulus = np.zeros((5, 3, 2, 2))
    stimulus[3, 1] = 1
    found = np.asarray(Image.open(io.BytesIO(base64.b64decode(records.strongest_frame(stimulus)))))
    assert found.shape == (2, 10, 3)
    np.testing.assert_array_equal((found == 255).all(axis=(0, 2)), np.arange(10) // 2 == 3)


@needs_browser
def test_a_movie_that_is_not_decoded_shows_its_poster(page):
    shown = "return [...document.querySelectorAll('#gallery canvas')].map((it) => getComputedStyle(it).backgroundImage)"
    posters = page.execute_script(shown)
    assert len(set(posters)) == 12
    assert all(poster.startswith('url("data:image/png;base64,') for poster in posters)


@pytest.mark.slow
@needs_browser
def test_three_thousand_neurons_are_decoded_as_they_come_into_view(browser, tmp_path):
    report = ml.write_report(make_store(tmp_path, count=3000, types=None, time_steps=6))
    page = show(browser, report)
    assert named(page, "count").text == "3000 of 3000 neurons"
    drawn = "return [...document.querySelectorAll('#gallery li')].filter((it) => 'visible' in it.dataset).length"
    assert 0 < eventually(page, drawn) < 500
    last = page.find_elements(By.CSS_SELECTOR, "#gallery canvas")[-1]
    assert np.ptp(pixels(page, last)) == 0
    page.execute_script("arguments[0].scrollIntoView()", last)
    WebDriverWait(page, 60).until(lambda it: np.ptp(pixels(it, last)) > 0)
    assert page.execute_script(drawn) < 500
    condition(page, 0, "score", low=8.9)
    scores = make_meis(3000, time_steps=6)["score"].values
    assert len(shown(page)) == (scores >= 8.9).sum()


@pytest.mark.slow
@needs_browser
@pytest.mark.parametrize(
    ("kind", "views"),
    [("movies of one channel", 1), ("images", 1), ("movies of five channels", 5)],
)
def test_other_stimuli(browser, tmp_path, kind, views):
    if kind == "images":
        ml.save_dataset(find(still_model(), [0, 3], max_steps=5), tmp_path / "meis.zarr")
    else:
        names = ("grey",) if "one" in kind else tuple("abcde")
        make_store(tmp_path, channels=names, types=None)
    page = show(browser, ml.write_report(tmp_path / "meis.zarr"))
    page.find_element(By.CSS_SELECTOR, ".card").click()
    eventually(page, "return document.getElementById('neuron').open")
    strip = page.find_element(By.CSS_SELECTOR, "#neuron-body .tiles")
    canvases = strip.find_elements(By.TAG_NAME, "canvas")
    assert len(canvases) == views
    assert all(np.ptp(pixels(page, canvas)) > 0 for canvas in canvases)
    assert [it for it in page.get_log("browser") if it["level"] == "SEVERE"] == []


@needs_browser
@pytest.mark.parametrize("types", [None, TYPES])
def test_a_run_that_has_just_begun(browser, tmp_path, types):
    meis = make_meis()
    for name in ("stimulus", "score", "restart_scores", "restart_similarity", "score_spread"):
        meis[name][:] = np.nan
    meis["status"] = ("neuron", ["pending"] * 15)
    store = ml.save_dataset(meis, tmp_path / "meis.zarr")
    if types:
        ml.analyze_meis(store, progress_bar=False)
    page = show(browser, ml.write_report(store))
    assert page.find_element(By.CSS_SELECTOR, ".card").text.splitlines() == [
        "no stimulus",
        "day_0/0",
        "score –, pending",
    ]
    assert [it for it in page.get_log("browser") if it["level"] == "SEVERE"] == []


@needs_browser
def test_a_neuron_without_a_stimulus_says_so(page):
    page.find_elements(By.CSS_SELECTOR, ".card")[4].click()
    eventually(page, "return document.getElementById('neuron').open")
    assert "no stimulus of this neuron" in named(page, "neuron-body").text
    assert "pending" in named(page, "neuron-body").text


def decoded(text, channels, time_steps, height, width, response, restarts):
    """The parts of a record, read as its description says."""
    raw = zlib.decompress(base64.b64decode(text))
    sizes = [1, channels, channels * time_steps, response, restarts]
    floats = np.split(np.frombuffer(raw, "<f4", sum(sizes)), np.cumsum(sizes)[:-1])
    levels = np.frombuffer(raw[4 * sum(sizes) :], np.int8)
    pixels = channels * height * width
    maps, steps = levels[:pixels], levels[pixels:].reshape(channels, time_steps, height, width)
    movie = np.cumsum(steps, axis=1, dtype=np.int8)
    return floats, maps.reshape(channels, height, width) / 127, movie * (floats[0] / 127)


@settings(max_examples=40)
@given(st.integers(1, 4), st.integers(1, 9), st.integers(1, 7), st.integers(1, 7), st.integers(0, 2**31))
def test_records_hold_the_stimulus_to_half_a_step(channels, time_steps, height, width, seed):
    random = np.random.default_rng(seed)
    stimulus = random.standard_normal((channels, time_steps, height, width)) * 10 ** random.uniform(-3, 3)
    spatial = random.uniform(-1, 1, (channels, height, width))
    others = [random.random(channels), random.random((channels, time_steps)), random.random(5), np.array([1, np.nan])]
    text = encode(stimulus, others[0], others[1], spatial, others[2], others[3])
    floats, maps, movie = decoded(text, channels, time_steps, height, width, 5, 2)
    largest = np.abs(stimulus).max()
    np.testing.assert_allclose(movie, stimulus, atol=largest / 127 / 2 * 1.001)
    np.testing.assert_allclose(maps, spatial, atol=0.5001 / 127)
    for found, expected in zip(floats, [[largest], *others], strict=True):
        np.testing.assert_allclose(found, np.ravel(expected), rtol=1e-6)


def test_a_record_of_zeros():
    text = encode(np.zeros((1, 3, 2, 2)), np.zeros(1), np.zeros((1, 3)), np.zeros((1, 2, 2)), np.zeros(2), np.ones(1))
    assert not decoded(text, 1, 3, 2, 2, 2, 1)[2].any()


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 4))
def test_coarse_pixels_are_means(height, width, side):
    values = np.random.default_rng(0).standard_normal((2, height, width))
    found = coarse(values, side)
    expected = [
        [values[:, y : y + side, x : x + side].mean(axis=(1, 2)) for x in range(0, width, side)]
        for y in range(0, height, side)
    ]
    np.testing.assert_allclose(found, np.moveaxis(np.array(expected), -1, 0))


def test_the_page_of_many_large_stimuli_stays_small():
    low = {"neuron": 3000, "channel": 2, "time": 50, "y": 18, "x": 16}
    high = low | {"y": 72, "x": 64}
    assert pixels_that_fit(low) == 1
    side = pixels_that_fit(high)
    assert 3000 * 2 * 50 * -(-72 // side) * -(-64 // side) * 4 / 3 <= records.LARGEST_PAGE
    assert 3000 * 2 * 50 * -(-72 // (side - 1)) * -(-64 // (side - 1)) * 4 / 3 > records.LARGEST_PAGE


def test_coarse_pages_say_so(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "LARGEST_PAGE", 4000)
    page = ml.write_report(make_store(tmp_path, types=None)).read_text(encoding="utf-8")
    data = json.loads(re.search(r'id="data">(.*?)</script>', page)[1])
    assert f"means of {-(-6 // data['height'])} x" in page
    texts = re.findall(r'id="movie-\d+">(.*?)</script>', page)
    movie = decoded(texts[0], 2, 8, data["height"], data["width"], 5, 3)[2]
    expected = coarse(make_meis()["stimulus"].values[0], -(-6 // data["height"]))
    np.testing.assert_allclose(movie, expected, atol=np.abs(expected).max() / 250)


def test_summary_and_tables(report):
    page = report.read_text(encoding="utf-8")
    for text in (
        "9 converged, ",
        "3 of 15 neurons are not finished",
        "green, UV; 8 frames at 30 Hz",
    ):
        assert text in page
    assert "There are no measures" not in page
    assert "No neuron has two starts" not in page


@pytest.mark.slow
def test_why_nothing_is_known_of_other_starts(tmp_path):
    meis = make_meis()
    meis["restart_scores"][:, 1:] = np.nan
    store = ml.save_dataset(meis, tmp_path / "meis.zarr")
    ml.analyze_meis(store, progress_bar=False)
    report = ml.write_report(store)
    page = report.read_text(encoding="utf-8")
    assert "No neuron has two starts that were optimised to the end" in page
    assert "search=&#34;thorough&#34; follows several" in page
    assert "What other starts of the same neuron arrive at" not in page
    assert not {"restart_similarity", "seed_stability"} & set(columns_of(report))
    assert "restart similarity" not in page


def test_only_starts_that_were_optimised_to_the_end_are_compared(tmp_path):
    meis = make_meis()
    followed = np.isfinite(meis["restart_scores"].values).sum(axis=1) >= 2
    followed[[0, 1]] = False
    meis["restart_scores"][:2, 1:] = np.nan
    report = ml.write_report(ml.save_dataset(meis, tmp_path / "meis.zarr"))
    caption = f"{followed.sum()} of 15 neurons, those with at least two starts optimised to the end"
    assert caption in report.read_text(encoding="utf-8")
    similarity = np.array(columns_of(report)["restart_similarity"]["values"], dtype=float)
    np.testing.assert_allclose(similarity, np.where(followed, meis["restart_similarity"], np.nan), rtol=1e-5)


def test_without_an_analysis_the_page_says_how_to_make_one(tmp_path):
    store = make_store(tmp_path, types=None)
    page = ml.write_report(store, tmp_path / "elsewhere.html").read_text(encoding="utf-8")
    assert f"the report again: mei-lightning analyze {store}</p>" in page
    other = tmp_path / "other"
    page = ml.write_report(store, directory=other).read_text(encoding="utf-8")
    assert f"the report again: mei-lightning analyze {store} --directory {other}</p>" in page


def test_settings_are_shown_with_four_digits(tmp_path):
    constraint = {"class": "SphereProjection", "arguments": {"norm": 720**0.5}}
    configuration = {"constraint": constraint, "tolerance": 1 / 3, "max_steps": 100000}
    meis = make_meis().assign_attrs(configuration=json.dumps(configuration))
    store = ml.save_dataset(meis, tmp_path / "meis.zarr")
    page = ml.write_report(store).read_text(encoding="utf-8")
    assert "norm=26.83" in page
    assert "0.3333," in page
    assert "100000" in page
    assert "26.832" not in page
    assert "0.33333" not in page
    assert json.loads(xr.open_zarr(store).attrs["configuration"]) == configuration


@pytest.mark.slow
def test_an_analysis_that_is_older_or_of_something_else_is_left_out(tmp_path):
    store = make_store(tmp_path)
    analysis = xr.open_zarr(tmp_path / "analysis.zarr", chunks=None).load()
    other_score = analysis.assign(score=analysis["score"].where(np.arange(15) > 0))
    others = [analysis.isel(neuron=slice(3)), analysis.assign_attrs(configuration="{}"), other_score]
    for other in [*others, analysis.assign_attrs(meis_digest="of another state")]:
        other.drop_encoding().to_zarr(tmp_path / "analysis.zarr", mode="w", zarr_format=2)
        with pytest.warns(UserWarning, match=r"analysis\.zarr is older .* left out.*--analyze true"):
            page = ml.write_report(store, overwrite=True).read_text(encoding="utf-8")
        assert "and is left out" in page
        data = json.loads(re.search(r'id="data">(.*?)</script>', page)[1])
        assert not {"type", "polarity"} & {column["key"] for column in data["columns"]}
        assert "Distributions of the measures" not in page


@pytest.mark.slow
def test_an_analysis_is_of_one_state_of_the_store_and_is_made_anew_on_request(tmp_path, capsys):
    meis = make_meis()
    store = ml.save_dataset(meis, tmp_path / "meis.zarr")
    command = ["report", str(store), "--overwrite", "true"]
    main([*command, "--analyze", "true"])
    assert "Analysis: " in capsys.readouterr().out
    first = xr.open_zarr(tmp_path / "analysis.zarr", chunks=None).load()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        main([*command, "--analyze", "true"])
    assert "Analysis: " not in capsys.readouterr().out

    # The last neuron, which was pending, is finished with a stimulus that is another one.
    finished = meis.load().copy(deep=True)
    finished["stimulus"][14] = finished["stimulus"][0].values[:, ::-1]
    finished["status"][14], finished["score"][14] = "converged", 5.0
    finished.drop_encoding().to_zarr(store, mode="w", zarr_format=2, consolidated=True)
    with pytest.warns(UserWarning, match="left out"):
        main(command)
    assert "Distributions of the measures" not in (tmp_path / "report.html").read_text(encoding="utf-8")
    main([*command, "--analyze", "true"])
    assert "Analysis: " in capsys.readouterr().out
    second = xr.open_zarr(tmp_path / "analysis.zarr", chunks=None).load()
    assert first["cluster"][14] == -1
    assert np.isnan(first["score"][14])
    assert second["score"][14] == 5.0
    assert "Distributions of the measures" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_a_report_that_is_there_already_is_refused_before_anything_is_analysed(tmp_path):
    store = make_store(tmp_path, types=None)
    (tmp_path / "report.html").touch()
    with pytest.raises(FileExistsError):
        main(["report", str(store), "--analyze", "true"])
    assert not (tmp_path / "analysis.zarr").exists()


def test_reports_are_not_overwritten_unasked(tmp_path):
    store = make_store(tmp_path, types=None)
    (tmp_path / "report.html").write_text("mine")
    with pytest.raises(FileExistsError, match="overwrite=True"):
        ml.write_report(store)
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == "mine"
    assert ml.write_report(store, overwrite=True).read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    with pytest.raises(FileNotFoundError, match="no store"):
        ml.write_report(tmp_path / "nowhere.zarr")
    assert {it.name for it in tmp_path.iterdir()} == {"meis.zarr", "report.html"}


def columns_of(page):
    data = json.loads(re.search(r'id="data">(.*?)</script>', page.read_text(encoding="utf-8"))[1])
    return {column["key"]: column for column in data["columns"]}


@pytest.mark.slow
def test_an_own_variable_is_in_store_table_and_report_by_its_entry(tmp_path, monkeypatch):
    def delay(values):
        return 1000.0 + values["steps"]

    own = (
        Variable("delay", np.nan, "time to the peak", "ms", derived=delay),
        Variable("of_run", np.nan, "shown beside the measures", "Hz", derived=delay, in_table=False),
        Variable("secret", np.nan, "only in the store", "s", derived=delay, in_table=False, in_report=False),
        Variable("delays", np.nan, "of each start", "s", ("restart",), derived=lambda values: [delay(values)]),
        Variable("gain", np.nan, "of each channel", "1", ("channel",), derived=lambda values: [0.5, delay(values)]),
    )
    monkeypatch.setattr("mei_lightning.results.schema.VARIABLES", (*VARIABLES, *own))
    monkeypatch.setattr("mei_lightning.results.store.VARIABLES", (*VARIABLES, *own))
    meis = find(video_model(), [("monday", 0), ("tuesday", 1)], time_steps=8, max_steps=5, directory=tmp_path)
    expected = 1000.0 + meis["steps"].values
    for name in ("delay", "of_run", "secret"):
        np.testing.assert_array_equal(meis[name], expected)
    assert meis["delay"].attrs == {"long_name": "time to the peak", "units": "ms"}

    store = tmp_path / "meis.zarr"
    before = columns_of(ml.write_report(store))
    table = ml.measures_table(ml.analyze_meis(store, accelerator="cpu", progress_bar=False))
    assert set(table.columns) & {"delay", "of_run", "secret", "delays"} == {"delay"}
    assert table.attrs["units"]["delay"] == "ms"
    np.testing.assert_array_equal(table[["delay", "gain_UV"]], np.stack([expected, expected], axis=1))
    for columns in (before, columns_of(ml.write_report(store, overwrite=True))):
        assert columns["delay"]["values"] == columns["gain_UV"]["values"] == expected.tolist()
        assert {columns[name]["units"] for name in ("delay", "of_run")} == {"ms", "Hz"}
        assert columns["delay"]["about"] == "time to the peak"
        assert not {"secret", "delays"} & set(columns)
    assert '<th scope="row">delay</th><td>ms</td><td>2</td>' in (tmp_path / "report.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_variable_that_an_older_store_lacks_is_left_out(tmp_path, monkeypatch):
    find(video_model(), [("monday", 0)], time_steps=8, max_steps=5, directory=tmp_path)
    newer = Variable("delay", np.nan, "time to the peak", "ms", derived=lambda values: 1.0)
    monkeypatch.setattr("mei_lightning.results.schema.VARIABLES", (*VARIABLES, newer))
    store = tmp_path / "meis.zarr"
    assert "delay" not in ml.analyze_meis(store, accelerator="cpu", progress_bar=False)
    assert "delay" not in columns_of(ml.write_report(store))


@pytest.mark.slow
def test_on_the_command_line(tmp_path, capsys):
    find(video_model(), [("monday", 0), ("tuesday", 1)], max_steps=5, directory=tmp_path)
    main(["analyze", str(tmp_path / "meis.zarr")])
    main(["report", str(tmp_path / "meis.zarr")])
    assert f"Report: {tmp_path / 'report.html'}" in capsys.readouterr().out
    assert "monday/0" in (tmp_path / "report.html").read_text(encoding="utf-8")
