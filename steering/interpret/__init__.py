"""What features mean: described, labelled, found."""
