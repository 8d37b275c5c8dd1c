"""What a language model is asked, once or while it is pretrained."""
