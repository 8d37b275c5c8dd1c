"""What the benchmarks of pretraining measure: llmstages and its peers, behind one interface.

A peer is another project's checkout, which its user has put somewhere (`.peers/` is ignored by
git). Its model and its optimizer are imported from there and run as they are; nothing of it is
kept here.
"""
