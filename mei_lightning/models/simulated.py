"""A simulated mouse retina in which the answer is known: every cell's type, place, and filters."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mei_lightning.exceptions import InvalidValueError
from mei_lightning.models.base import StimulusFormat
from mei_lightning.models.sessions import SessionsModel

STIMULUS_FORMAT = StimulusFormat(
    channel_names=("green", "UV"),
    height=18,
    width=16,
    frame_rate=30.0,
    pixel_size=50.0,
    mean=(37.417, 36.132),
    sd=(28.905, 39.841),
    frames_lost=20,
)
SESSIONS = ("session_1", "session_2", "session_3")
LINEAR_TYPES = ("on_sustained", "on_transient", "off_sustained", "off_transient")

_FILTER_FRAMES = STIMULUS_FORMAT.frames_lost + 1
_MOSAIC_SEED = 20240105
_BORDER = 3.0
_JITTER = 0.6


@dataclass(frozen=True)
class _Cell:
    """One cell: place in pixels, preferred direction in degrees, and how much it deviates from its type."""

    type: str
    y: float
    x: float
    direction: float
    size: float
    speed: float
    gain: float


@dataclass(frozen=True)
class _Subunit:
    """A space-time filter, the sum of up to two (spatial ``[channels, height, width]``, temporal) products."""

    products: Sequence[tuple[Tensor, Tensor]]

    def full(self) -> Tensor:
        """The filter ``[channels, time, height, width]``, the last frame being the current one."""
        return torch.stack([torch.einsum("chw,t->cthw", *product) for product in self.products]).sum(0)

    def of_norm(self, norm: float) -> "_Subunit":
        """The same filter, scaled to an L2 norm."""
        scale = norm / self.full().norm()
        return _Subunit([(spatial * scale, temporal) for spatial, temporal in self.products])

    def negative(self) -> "_Subunit":
        return _Subunit([(-spatial, temporal) for spatial, temporal in self.products])


@dataclass(frozen=True)
class _Circuit:
    """How a cell combines its subunits; see ``SimulatedRetina``."""

    bias: float
    linear: Sequence[_Subunit] = ()
    rectified: Sequence[_Subunit] = ()
    contrast: Sequence[_Subunit] = ()
    contrast_weight: float = 0.0
    subunits: Sequence[_Subunit] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "subunits", [*self.linear, *self.rectified, *self.contrast])


def _gaussian(cell: _Cell, sd: float) -> Tensor:
    """Gaussian ``[height, width]`` of unit volume at a cell's place, ``sd`` in pixels."""
    y = torch.arange(STIMULUS_FORMAT.height, dtype=torch.float64) - cell.y
    x = torch.arange(STIMULUS_FORMAT.width, dtype=torch.float64) - cell.x
    return torch.exp(-(y[:, None] ** 2 + x**2) / (2 * sd**2)) / (2 * math.pi * sd**2)


def _centre_surround(cell: _Cell, centre_sd: float, surround: float, weights: tuple[float, float]) -> Tensor:
    """Difference of Gaussians ``[channels, height, width]``.

    ``surround`` is the surround's volume relative to the centre's; ``weights`` those of green and UV.
    """
    centre_sd = centre_sd * cell.size
    profile = _gaussian(cell, centre_sd) - surround * _gaussian(cell, 1.8 * centre_sd)
    return torch.tensor(weights, dtype=torch.float64)[:, None, None] * profile


def _kinetics(cell: _Cell, peak: float, rebound: float) -> Tensor:
    """Temporal filter: a lobe, minus ``rebound`` times one twice as slow; a rebound of 0.5 makes the sum zero.

    ``peak`` is the number of frames from the start of an impulse to the peak of its response.
    """
    lag = torch.arange(_FILTER_FRAMES, 0, -1, dtype=torch.float64)

    def lobe(time: float) -> Tensor:
        return ((lag / time) * torch.exp(1 - lag / time)) ** 5

    return lobe(peak * cell.speed) - rebound * lobe(2 * peak * cell.speed)


def _linear(cell: _Cell, centre_sd: float, peak: float, rebound: float, weights: tuple[float, float]) -> _Circuit:
    spatial = _centre_surround(cell, centre_sd, 0.6, weights)
    return _Circuit(bias=-1.0, linear=[_Subunit([(spatial, _kinetics(cell, peak, rebound))]).of_norm(0.6)])


def _on_off(cell: _Cell) -> _Circuit:
    spatial = _centre_surround(cell, 1.6, 0.5, (0.6, 0.8))
    on = _Subunit([(spatial, _kinetics(cell, 3.8, 0.45))]).of_norm(0.8)
    off = _Subunit([(-spatial, _kinetics(cell, 3.2, 0.45))]).of_norm(0.65)
    return _Circuit(bias=-2.4, rectified=[on, off])


def _direction_selective(cell: _Cell) -> _Circuit:
    wavelength, period = 6.5, 10.0
    angle = math.radians(cell.direction)
    y = torch.arange(STIMULUS_FORMAT.height, dtype=torch.float64)[:, None] - cell.y
    x = torch.arange(STIMULUS_FORMAT.width, dtype=torch.float64) - cell.x
    phase = 2 * math.pi / (wavelength * cell.size) * (x * math.cos(angle) + y * math.sin(angle))
    envelope = _gaussian(cell, 2.0 * cell.size) * torch.tensor((0.5, 0.85), dtype=torch.float64)[:, None, None]
    even, odd = envelope * phase.cos(), envelope * phase.sin()

    lag = torch.arange(_FILTER_FRAMES, 0, -1, dtype=torch.float64)
    time_course = _kinetics(cell, 6.0, 0.0)
    turn = 2 * math.pi * lag / (period * cell.speed)
    early, late = time_course * turn.cos(), time_course * turn.sin()
    quadrature = [_Subunit([(even, early), (-odd, late)]), _Subunit([(odd, early), (even, late)])]
    return _Circuit(bias=-1.5, contrast=[subunit.of_norm(0.8) for subunit in quadrature], contrast_weight=1.0)


def _suppressed_by_contrast(cell: _Cell) -> _Circuit:
    weights = (0.6, 0.8)
    slow = _Subunit([(_centre_surround(cell, 2.4, 0.0, weights), _kinetics(cell, 7.0, 0.0))]).of_norm(0.12)
    fast = _Subunit([(_centre_surround(cell, 1.6, 0.3, weights), _kinetics(cell, 3.0, 0.5))]).of_norm(0.6)
    return _Circuit(bias=1.5, linear=[slow], contrast=[fast], contrast_weight=-1.0)


def _color_opponent(cell: _Cell) -> _Circuit:
    kinetics = _kinetics(cell, 4.5, 0.3)
    opponent = _Subunit([(_centre_surround(cell, 1.9, 0.3, (-0.65, 0.75)), kinetics)]).of_norm(0.7)
    luminance = _Subunit([(_centre_surround(cell, 1.9, 0.3, (0.75, 0.65)), kinetics)]).of_norm(0.25)
    return _Circuit(bias=-0.5, linear=[opponent], contrast=[luminance], contrast_weight=-0.5)


def _circuit(cell: _Cell) -> _Circuit:
    match cell.type:
        case "on_sustained":
            return _linear(cell, 1.5, 5.0, 0.1, (0.6, 0.8))
        case "on_transient":
            return _linear(cell, 1.8, 3.2, 0.5, (0.7, 0.7))
        case "off_sustained":
            return _linear(cell, 1.3, 4.6, 0.15, (-0.45, -0.9))
        case "off_transient":
            return _linear(cell, 2.0, 2.8, 0.5, (-0.5, -0.85))
        case "on_off":
            return _on_off(cell)
        case "direction_selective":
            return _direction_selective(cell)
        case "suppressed_by_contrast":
            return _suppressed_by_contrast(cell)
        case _:
            return _color_opponent(cell)


def _mosaic(cell_type: str, rows: int, columns: int, direction: float, generator: torch.Generator) -> list[_Cell]:
    """Cells on a jittered grid that tiles the image, in random order."""

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * torch.rand((), generator=generator, dtype=torch.float64).item()

    y_grid = torch.linspace(_BORDER, STIMULUS_FORMAT.height - 1 - _BORDER, rows).tolist()
    x_grid = torch.linspace(_BORDER, STIMULUS_FORMAT.width - 1 - _BORDER, columns).tolist()
    cells = [
        _Cell(
            type=cell_type,
            y=y + uniform(-_JITTER, _JITTER),
            x=x + uniform(-_JITTER, _JITTER),
            direction=direction,
            size=uniform(0.95, 1.05),
            speed=uniform(0.95, 1.05),
            gain=uniform(0.8, 1.25),
        )
        for y in y_grid
        for x in x_grid
    ]
    return [cells[i] for i in torch.randperm(len(cells), generator=generator).tolist()]


def _sessions() -> dict[str, list[_Cell]]:
    """The cells of each session: every third cell of each mosaic, the types taking turns."""
    generator = torch.Generator().manual_seed(_MOSAIC_SEED)
    mosaics = {
        cell_type: _mosaic(cell_type, 4, 3, math.nan, generator)
        for cell_type in (*LINEAR_TYPES, "on_off", "suppressed_by_contrast", "color_opponent")
    }
    by_direction = [
        _mosaic("direction_selective", 3, 2, direction, generator) for direction in (0.0, 90.0, 180.0, 270.0)
    ]
    sessions: dict[str, list[_Cell]] = {}
    for i, session in enumerate(SESSIONS):
        by_type = [mosaic[i :: len(SESSIONS)] for mosaic in mosaics.values()]
        by_direction_here = [mosaic[i :: len(SESSIONS)] for mosaic in by_direction]
        by_type.insert(5, [cell for group in zip(*by_direction_here, strict=True) for cell in group])
        turns = max(len(cells) for cells in by_type)
        sessions[session] = [cells[turn] for turn in range(turns) for cells in by_type if turn < len(cells)]
    return sessions


class _Session(nn.Module):
    """The responses of one session's cells."""

    def __init__(self, cells: Sequence[_Cell]) -> None:
        super().__init__()
        circuits = [_circuit(cell) for cell in cells]
        subunits = [subunit for circuit in circuits for subunit in circuit.subunits]
        num_pixels = len(STIMULUS_FORMAT.channel_names) * STIMULUS_FORMAT.height * STIMULUS_FORMAT.width
        spatial = torch.zeros(len(subunits), 2, num_pixels, dtype=torch.float64)
        temporal = torch.zeros(len(subunits), 2, _FILTER_FRAMES, dtype=torch.float64)
        for s, subunit in enumerate(subunits):
            for p, (space, time) in enumerate(subunit.products):
                spatial[s, p], temporal[s, p] = space.flatten(), time
        wiring = torch.zeros(3, len(subunits), len(cells))
        s = 0
        for n, circuit in enumerate(circuits):
            for kind, members in enumerate((circuit.linear, circuit.rectified, circuit.contrast)):
                wiring[kind, s : s + len(members), n] = 1.0
                s += len(members)

        self.spatial: Tensor
        self.temporal: Tensor
        self.wiring: Tensor
        self.contrast_weight: Tensor
        self.bias: Tensor
        self.gain: Tensor
        self.register_buffer("spatial", spatial.flatten(0, 1).T.float().contiguous())
        self.register_buffer("temporal", temporal.float())
        self.register_buffer("wiring", wiring)
        self.register_buffer("contrast_weight", torch.tensor([circuit.contrast_weight for circuit in circuits]))
        self.register_buffer("bias", torch.tensor([circuit.bias for circuit in circuits]))
        self.register_buffer("gain", torch.tensor([cell.gain for cell in cells]))

    def forward(self, stimulus: Tensor) -> Tensor:
        linear, rectified, contrast = self.wiring
        projections = stimulus.transpose(1, 2).flatten(2) @ self.spatial
        subunits = F.conv1d(projections.transpose(1, 2), self.temporal, groups=len(self.temporal)).transpose(1, 2)
        energy = (1 + subunits.square() @ contrast).sqrt() - 1
        drive = subunits @ linear + F.softplus(subunits) @ rectified + self.contrast_weight * energy
        return self.gain * F.softplus(drive + self.bias)


class _Network(nn.Module):
    """The sessions of the simulated retina."""

    def __init__(self, sessions: Mapping[str, Sequence[_Cell]]) -> None:
        super().__init__()
        self.sessions = nn.ModuleDict({session: _Session(cells) for session, cells in sessions.items()})

    def forward(self, stimulus: Tensor, data_key: str) -> Tensor:
        return self.sessions[data_key](stimulus)


class SimulatedRetina(SessionsModel):
    """Ganglion cells of eight types, written down as formulas, so that an MEI can be checked against the truth.

    The response of a cell is ``gain * softplus(drive + bias)``, in a unit of its own. What drives it is, for a stimulus
    window of 21 frames (30 per second) and 18 x 16 pixels (of 50 micrometres) in green and UV:

    ======================================= ==========================================================================
    ``on_sustained``, ``on_transient``,     one linear filter: a difference of Gaussians times a slow, mostly
    ``off_sustained``, ``off_transient``    monophasic or a fast, biphasic time course. The MEI of one response frame
                                            under a norm is the filter itself.
    ``on_off``                              the sum of a rectified ON and a rectified OFF filter
    ``direction_selective``                 motion energy: two space-time inclined filters in quadrature (Adelson and
                                            Bergen 1985), ``sqrt(1 + a^2 + b^2) - 1``
    ``suppressed_by_contrast``              a weak slow ON filter, minus the contrast ``sqrt(1 + a^2) - 1`` of a
                                            fast filter, from a high baseline
    ``color_opponent``                      UV ON, green OFF in the centre, minus luminance contrast (after the tSbC
                                            cell of Höfling et al. 2024)
    ======================================= ==========================================================================

    Each type is a mosaic that tiles the image (one mosaic for each of the four preferred directions), and its cells
    differ a little in size, speed and gain. The cells are shared out to three sessions; the first eight of a session
    are one of each type. Nothing is random: every instance is the same, on every device.

    Args:
        centred: put all cells at the middle of the image, so that they differ in what they see only.

    Example:
        >>> retina = ml.SimulatedRetina()
        >>> truth = retina.linear_filter("session_1", 0)  # 21 frames, for one frame of the response
        >>> cell = [("session_1", 0)]
        >>> meis = ml.find_meis(retina, cell, time_steps=21, norm=10.0, search="quick", progress_bar=False)
        >>> found = torch.from_numpy(meis.stimulus.values[0])
        >>> torch.cosine_similarity(found.flatten(), truth.flatten(), dim=0).round(decimals=2)
        tensor(1.)
    """

    def __init__(self, centred: bool = False) -> None:
        sessions = _sessions()
        if centred:
            y, x = (STIMULUS_FORMAT.height - 1) / 2, (STIMULUS_FORMAT.width - 1) / 2
            sessions = {session: [replace(cell, y=y, x=x) for cell in cells] for session, cells in sessions.items()}
        self._cells = sessions
        counts = {session: len(cells) for session, cells in sessions.items()}
        super().__init__(
            _Network(sessions), STIMULUS_FORMAT, counts, name="simulated, centred" if centred else "simulated"
        )

    @property
    def neurons(self) -> pd.DataFrame:
        """A row for each neuron.

        Columns ``session``, ``index``, ``type``, the centre of the receptive field ``y`` (row) and ``x`` (column) in
        pixels, and ``direction``, the preferred direction of motion in degrees: 0 towards growing x, 90 towards
        growing y, NaN for other types.
        """
        return pd.DataFrame(
            [
                (session, index, cell.type, cell.y, cell.x, cell.direction)
                for session, cells in self._cells.items()
                for index, cell in enumerate(cells)
            ],
            columns=["session", "index", "type", "y", "x", "direction"],
        )

    def linear_filter(self, session: str, index: int) -> Tensor:
        """The filter ``[channels, time, height, width]`` of a neuron of a linear type.

        The neuron's drive is the sum of the filter times the stimulus over a window of 21 frames, of which the last
        is the frame of the response.

        Raises:
            ValueError: if there is no such neuron, or it is not of a linear type.
        """
        return _circuit(self._linear_cell(session, index)).linear[0].full().float()

    def linear_response(self, session: str, index: int, drive: Tensor) -> Tensor:
        """The response of a neuron of a linear type to a drive, of any shape.

        The largest response to a window of norm ``r`` is that to the drive ``r * linear_filter(...).norm()``.

        Raises:
            ValueError: if there is no such neuron, or it is not of a linear type.
        """
        cell = self._linear_cell(session, index)
        return cell.gain * F.softplus(drive + _circuit(cell).bias)

    def _linear_cell(self, session: str, index: int) -> _Cell:
        self.check_session(session)
        cells = self._cells[session]
        if not 0 <= index < len(cells):
            raise InvalidValueError(f"Session '{session}' has the neurons 0 to {len(cells) - 1}, not {index}.")
        if cells[index].type not in LINEAR_TYPES:
            raise InvalidValueError(
                f"Neuron {index} of session '{session}' is of type '{cells[index].type}', which has no linear filter. "
                f"The linear types: {', '.join(LINEAR_TYPES)}."
            )
        return cells[index]
