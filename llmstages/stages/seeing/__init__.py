"""What `inspect` shows of a file of data."""
