"""Stimuli that take more than one optimisation: each method goes on from the MEIs of some neurons."""
