"""Any file -> named tensors, safely: nothing in the file is executed, and what is damaged is refused.

Nothing is imported here, so that looking into a file that is refused does not wait for torch.
"""
