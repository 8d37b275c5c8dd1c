"""What occurs twice: exact and near duplicates, and evaluation text in the corpus."""
