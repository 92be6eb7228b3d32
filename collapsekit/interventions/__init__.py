"""What if a modality were different: edits of recordings, their replay, imputation, gradients."""
