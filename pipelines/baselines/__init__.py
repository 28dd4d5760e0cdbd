"""`conceptprune baseline`: other ways to erase a manifest's concepts, and controls, as deltas."""
