"""Maximally exciting inputs of frozen retina models, on PyTorch Lightning."""
