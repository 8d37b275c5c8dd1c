"""From a checkpoint back to the raw text: the chain, its hashes, and proofs."""
