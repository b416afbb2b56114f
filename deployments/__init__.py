"""Ways to start a run that prefect.yaml cannot say."""
