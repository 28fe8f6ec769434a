"""What several tests use: small worlds, made runs, archives."""
