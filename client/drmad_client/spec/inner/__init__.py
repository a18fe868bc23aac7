"""The inner problem: models, training, optimizers and schedules."""
