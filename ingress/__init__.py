"""The doors: the command line, and the health and metrics pages."""
