"""What is measured. Each module measures one thing, and makes figures of what came out."""
