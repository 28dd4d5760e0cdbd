"""What a job says: its log, and its tables."""
