"""Records of the service itself: cluster, usage, audit log."""
