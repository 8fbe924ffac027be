"""Side by side with the peer, in one process; `make bench` runs them all."""
