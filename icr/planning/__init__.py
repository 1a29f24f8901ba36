"""What a run will cost, before it starts: time, memory, disk, and what a judge is paid."""
