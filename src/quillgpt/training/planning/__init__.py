"""Before a run: what would come of it, how long it takes, and which size and length suit its text and its time."""
