"""MEIs as what a projector shows in an experiment: 8-bit frames, when each is shown, and what they are."""
