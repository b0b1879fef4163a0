"""Other ways of getting the same clips, to compare with; each is used as its own project says."""
