"""What is checked of an ONNX model before anything else reads it; every refusal names a node or a tensor."""
