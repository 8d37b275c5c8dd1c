"""What several subcommands share: rows, base, method, length and pace of a training; output."""
