"""What `compare` needs: items that both models are asked, and tables."""
