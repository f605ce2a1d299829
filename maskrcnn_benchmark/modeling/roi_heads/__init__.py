"""The second stage: what is looked for in each region."""
