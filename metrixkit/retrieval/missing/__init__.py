"""Retrieval without some modalities: masks, how gaps are filled, the protocol and its result."""
