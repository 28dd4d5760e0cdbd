"""The output of a job: its log and its tables."""
