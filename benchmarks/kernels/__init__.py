"""What masking logits costs, beside the kernels that others ship."""
