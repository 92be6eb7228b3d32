"""A checkpoint's tensors put into a model, as the model's own loading would have it."""
