"""Scoring checkpoints: suites of prompts, scorers, attacks, and the summaries they end in."""
