"""Learning what the domain is: self-distillation (student, teacher, multi-crop, centre), negatives pushed to uniform."""
