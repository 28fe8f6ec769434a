"""From distances to a path: costs, exact search, the published strategy, and the record of a plan."""
