"""Tasks: registered datasets with cases, labels and signatures."""
