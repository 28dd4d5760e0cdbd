"""The recipe that made the shipped studio model: `python -m conceptprune.studio.training`."""
