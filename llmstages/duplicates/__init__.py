"""What near duplicates are, for documents of a corpus and rows of a labelled file alike."""
