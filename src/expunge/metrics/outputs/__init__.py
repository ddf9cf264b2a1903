"""What a model's outputs show beside membership."""
