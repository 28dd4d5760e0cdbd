"""What a store remembers of runs: their records, ledgers and signs of life."""
