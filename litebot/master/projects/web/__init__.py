"""Pages and hooks of projects."""
