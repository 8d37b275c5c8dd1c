"""Web pages: from bytes to readable text."""
