"""Commands that need no cluster: plan, status, export and gc."""
