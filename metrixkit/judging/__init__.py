"""Evaluation outside of training: saved models, or embeddings and scores made by anybody."""
