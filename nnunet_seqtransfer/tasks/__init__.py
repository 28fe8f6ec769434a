"""What a task is: a registered dataset, its cases and labels, and its signature."""
