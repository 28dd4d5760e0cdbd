"""Closed-form edits of many concepts at once, from additive second moments."""
