"""Training: self-distillation (student, teacher, multi-crop, centring), with negatives pushed to a uniform output."""
