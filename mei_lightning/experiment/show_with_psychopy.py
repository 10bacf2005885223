"""Shows the stimuli that lie beside this file on a screen, with PsychoPy, and notes when each frame was shown.

    python show_with_psychopy.py [number of the screen]

Escape ends it. The times of the frames are in shown_times.csv, in seconds from the first.
"""

import csv
import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from psychopy import event, visual

PLACE = Path(__file__).parent
LARGEST_ERROR_OF_RATE = 0.02


def main(screen: int = 0) -> None:
    """Show all frames on one of the screens.

    Raises:
        SystemExit: if the screen has another rate than the stimuli are for.
    """
    facts = json.loads((PLACE / "stimuli.json").read_text(encoding="utf-8"))
    frames = np.load(PLACE / "stimuli.npy", mmap_mode="r")
    # PsychoPy's colours are from -1 to 1.
    background = [value / 127.5 - 1 for value in facts["background_rgb"]]
    window = visual.Window(fullscr=True, screen=screen, units="pix", color=background, waitBlanking=True)
    try:
        check_rate(window, facts["screen_rate_hz"])
        shown = show(window, frames, facts["screen_images_of_a_frame"])
    finally:
        window.close()
    with (PLACE / "shown_times.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("frame", "shown_s"), *enumerate(time - shown[0] for time in shown)])
    print(f"{len(shown)} of {len(frames)} frames were shown; their times are in {PLACE / 'shown_times.csv'}.")


def check_rate(window: visual.Window, wanted: float) -> None:
    """Refuse a screen of another rate; one whose rate cannot be measured is taken."""
    measured = window.getActualFrameRate()
    if measured is not None and abs(measured / wanted - 1) > LARGEST_ERROR_OF_RATE:
        sys.exit(
            f"The screen has {measured:.2f} Hz, the stimuli are for {wanted:g} Hz: set the screen, or export anew."
        )


def show(window: visual.Window, frames: np.ndarray, times: int) -> list[float]:
    """Show each frame for some images of the screen; the times at which each began, in seconds.

    A pixel of a frame is a pixel of the screen, in the middle of it.
    """
    height, width = frames.shape[1:3]
    picture = visual.ImageStim(window, image=Image.fromarray(frames[0]), size=(width, height), interpolate=False)
    shown: list[float] = []
    for frame in frames:
        picture.image = Image.fromarray(np.asarray(frame))
        for number in range(times):
            picture.draw()
            time = window.flip()
            if number == 0:
                shown.append(time)
        if event.getKeys(["escape"]):
            break
    return shown


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 0)
