"""Models of several sessions that answer for all of them at once, as openretina's do."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from mei_lightning.models.base import RetinaModel


@dataclass(frozen=True)
class SessionReadout:
    """What is known of the readout of a session: ``outdims``, the number of its neurons."""

    outdims: int


class SessionReadouts(Mapping[str, SessionReadout]):
    """The sessions of a model with the number of neurons of each, under the names that openretina has for them.

    Args:
        neurons_per_session: the number of neurons of each session.
    """

    def __init__(self, neurons_per_session: Mapping[str, int]) -> None:
        self._readouts = {session: SessionReadout(count) for session, count in neurons_per_session.items()}

    def __getitem__(self, session: str) -> SessionReadout:
        return self._readouts[session]

    def __iter__(self) -> Iterator[str]:
        return iter(self._readouts)

    def __len__(self) -> int:
        return len(self._readouts)

    def readout_keys(self) -> list[str]:
        """The sessions in the order in which ``data_key=None`` puts their neurons: that of their names."""
        return sorted(self._readouts)

    @property
    def sessions(self) -> list[str]:
        """The same as ``readout_keys``."""
        return self.readout_keys()


class SessionsModel(RetinaModel):
    """A ``RetinaModel`` that can be asked for all sessions at once and for what openretina's models say of themselves.

    Arguments as for ``RetinaModel``.
    """

    @property
    def readout(self) -> Mapping[str, Any]:
        """The sessions, each with its number of neurons: ``model.readout[session].outdims``."""
        return SessionReadouts(self.neurons_per_session)

    @property
    def data_info(self) -> dict[str, Any]:
        """Facts about the stimulus and the neurons, under openretina's names."""
        facts = self.stimulus_format
        return {
            "input_shape": (len(facts.channel_names), facts.height, facts.width),
            "n_neurons_dict": self.neurons_per_session,
            "stimulus_rate_hz": facts.frame_rate,
            "sessions_kwargs": {session: {} for session in self.neurons_per_session},
        }

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(chain(self.parameters(), self.buffers(), [torch.empty(0)])).device

    def forward(self, stimulus: Tensor, data_key: str | None = None) -> Tensor:
        """Responses ``[batch, time', neurons]`` of a session to stimuli ``[batch, channels, time, height, width]``.

        Without a session those of all neurons, one session after the other, in the order of the sessions' names.

        Raises:
            ValueError: if the session is unknown.
        """
        if data_key is None and self.has_sessions:
            return torch.cat([self.forward(stimulus, session) for session in sorted(self.neurons_per_session)], dim=-1)
        return super().forward(stimulus, data_key)
