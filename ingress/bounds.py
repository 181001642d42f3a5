"""Bounds that the command line and the REST door share. Imports nothing: the command line starts with it."""

LONGEST_AGE_S = 10 * 366 * 86400
MOST_REPLAYED = 50_000
# Deliveries of a replay that become due in a second: with the slowest, the last one is due within two years.
SLOWEST_PACE, FASTEST_PACE = 0.001, 10_000
