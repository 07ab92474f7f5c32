"""What happens to runs when processes, disks and power fail. Each test carries the id of research/reliability.md."""
