"""The program that shows stimuli, on a PsychoPy that records what it is asked for."""

import csv
import runpy
import sys
from types import ModuleType

import numpy as np
import pytest
from test_experiment import meis_of_levels, random_levels

import mei_lightning as ml


class Screen:
    """Stands in for ``psychopy.visual`` and ``psychopy.event``: a screen of 60 Hz that keeps what was flipped."""

    def __init__(self, rate=60.0, escape_after=None):
        self.rate, self.escape_after = rate, escape_after
        self.flipped, self.drawn, self.windows, self.pictures = [], None, [], []
        screen = self

        class Window:
            def __init__(self, **options):
                self.options, self.closed = options, False
                screen.windows.append(self)

            def getActualFrameRate(self):
                return screen.rate

            def flip(self):
                screen.flipped.append(screen.drawn)
                return 100.0 + len(screen.flipped) / 60

            def close(self):
                self.closed = True

        class ImageStim:
            def __init__(self, window, image, size, interpolate):
                self.image, self.size, self.interpolate = image, size, interpolate
                screen.pictures.append(self)

            def draw(self):
                screen.drawn = np.asarray(self.image)

        self.visual = ModuleType("psychopy.visual")
        self.visual.Window, self.visual.ImageStim = Window, ImageStim
        self.event = ModuleType("psychopy.event")
        self.event.getKeys = lambda keys: keys if len(self.flipped) == self.escape_after else []

    def show(self, monkeypatch, directory):
        package = ModuleType("psychopy")
        package.visual, package.event = self.visual, self.event
        for module in (package, self.visual, self.event):
            monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setattr("sys.argv", ["show_with_psychopy.py"])
        runpy.run_path(str(directory / "show_with_psychopy.py"), run_name="__main__")


@pytest.fixture
def exported(tmp_path):
    meis = meis_of_levels(random_levels())
    return ml.export_for_experiment(meis, tmp_path, ["a/1", "a/0"], gap=0.1, enlargement=2, screen_rate=60.0)


def times_in(directory):
    with (directory / "shown_times.csv").open(newline="") as file:
        return [float(row["shown_s"]) for row in csv.DictReader(file)]


def test_every_frame_is_on_the_screen_twice_and_its_time_is_kept(monkeypatch, tmp_path, exported):
    screen = Screen()
    screen.show(monkeypatch, tmp_path)
    np.testing.assert_array_equal(screen.flipped, exported.frames.repeat(2, axis=0))
    np.testing.assert_allclose(times_in(tmp_path), exported.frame_times["onset_s"], atol=1e-9)
    (picture,), (window,) = screen.pictures, screen.windows
    # A pixel of a frame is a pixel of the screen; around it is the background.
    assert (picture.size, picture.interpolate) == ((10, 12), False)
    np.testing.assert_allclose((np.array(window.options["color"]) + 1) * 127.5, exported.frames[0, 0, 0])
    assert window.closed


def test_a_screen_of_another_rate_is_refused(monkeypatch, tmp_path, exported):
    screen = Screen(rate=75.0)
    with pytest.raises(SystemExit, match=r"75\.00 Hz, the stimuli are for 60 Hz"):
        screen.show(monkeypatch, tmp_path)
    assert not screen.flipped
    assert screen.windows[0].closed


def test_escape_ends_it_and_keeps_the_times(monkeypatch, tmp_path, exported):
    screen = Screen(rate=None, escape_after=6)
    screen.show(monkeypatch, tmp_path)
    assert len(screen.flipped) == 6
    assert len(times_in(tmp_path)) == 3
