"""A network in several files, as users write them."""
