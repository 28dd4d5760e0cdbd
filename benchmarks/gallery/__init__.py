"""The gallery: natural benchmark models that generate in the looks of 128 artists."""
