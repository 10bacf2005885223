"""Figures of what MEIs tell: a population, its measures, its responses to each other's MEIs, and its seeds."""
