"""metrixkit."""
