"""The cluster's part of `embedder check`: rights, GPUs and quotas, and what a release's own check has found."""
