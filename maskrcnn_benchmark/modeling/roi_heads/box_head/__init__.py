"""The box branch: the class and the exact box of each region."""
