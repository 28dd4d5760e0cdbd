"""Scoring checkpoints: suites of prompts, scorers, attacks, and summaries."""
