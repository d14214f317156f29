"""Reward terms, reward models and the composite that combines them. Trains and scores without a cluster."""
