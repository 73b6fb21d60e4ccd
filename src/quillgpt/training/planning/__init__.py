"""Before a run: the dry run, how long it takes, and which size and length suit its text and its time."""
