"""What changes a text: Unicode repair, personal data, lines taken out."""
