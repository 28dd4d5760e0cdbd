"""Attacks on erased checkpoints: what it takes to see an erased concept again."""
