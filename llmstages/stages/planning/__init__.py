"""What `plan` needs: what a run reads, takes, and costs."""
