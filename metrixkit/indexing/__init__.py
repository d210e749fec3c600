"""What ``metrixkit index`` does: embeddings into a folder that answers queries, and what can be learned from it."""
