"""What tasks are scored by, beside metrics of classes: values, places, survival, ranks; tensors in, numbers out."""
