"""Faces: each turns one dialect of HTTP into calls of the cluster, and its answers into HTTP."""
