"""What several tests share: optional packages, comparisons that assert, the state of a model."""
