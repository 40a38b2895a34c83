"""Publication of this repository as a Hugging Face Space: the card's rules, checks of the tree, and the upload."""
