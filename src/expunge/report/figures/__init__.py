"""What the figures of a report show, as plain values: from the record alone, or from the run folders as far as they are there."""
