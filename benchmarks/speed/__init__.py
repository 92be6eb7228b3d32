"""What every speed claim in the README is measured with: ours, a naive or a peer's way, and a limit, side by side."""
