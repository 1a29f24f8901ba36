"""What a round trains: one objective a file, the trainers around it, and the model that comes out."""
