"""What the making and the use of a classifier need."""
