"""The HTML page of `llmstages report`: what is read of runs, what it comes to, how it is drawn."""
