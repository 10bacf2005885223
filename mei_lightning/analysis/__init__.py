"""What MEIs tell: their course in time, shape in space, colour, motion and polarity."""
