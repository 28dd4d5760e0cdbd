"""Commands sent to a cluster through Ray's Jobs API."""
