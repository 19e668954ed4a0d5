"""What a detector's ONNX graph is made of."""
