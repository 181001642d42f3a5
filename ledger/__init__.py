"""The truth: what was accepted, what was attempted and how it ended. The only place with SQL."""
