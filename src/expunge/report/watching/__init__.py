"""Looking on while models are made: the runs of a folder, the comparisons that they belong to, and a report that grows."""
