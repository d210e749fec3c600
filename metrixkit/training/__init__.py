"""The loop, checkpoints and resuming, optimisers and schedules, logging."""
