"""What a person reads: the HTML report and the table in the terminal."""
