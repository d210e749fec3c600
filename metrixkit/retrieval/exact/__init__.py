"""The exact engine: scores tile by tile, ranks and neighbours as in float64, whatever screens them."""
