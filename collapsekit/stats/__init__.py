"""Pure numerics: tensors in, numbers out. Nothing here knows of models, probes or reports."""
