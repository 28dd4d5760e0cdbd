"""Masks: how they are selected, fused, stored, and applied to a model."""
