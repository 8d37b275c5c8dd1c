"""What is measured of a text, and the rules that judge it by these measures."""
