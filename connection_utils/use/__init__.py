"""What comes after training: runs and their cards, scoring files, ONNX."""
