"""Trained models as objects that embed, and folders of embeddings made by them."""
