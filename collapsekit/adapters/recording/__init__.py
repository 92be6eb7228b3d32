"""Where modalities and the fusion are recorded in a forward pass, and answered from."""
