"""The steps of `collect`, in order: read, measure, decide, write. Each works on files."""
