"""Results on disk, and what they are labelled with."""
