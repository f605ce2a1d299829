"""The detector and its parts: backbone, region proposal network and heads, each built from a registry entry."""
