"""Box head: the class and the exact box of each region."""
