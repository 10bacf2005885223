"""Retina models: the built-in ones, openretina's, and any of your own."""
