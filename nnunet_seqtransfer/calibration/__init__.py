"""From measured transfers to the weights of a metric's components and the planner's constants."""
