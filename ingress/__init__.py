"""Signed webhooks in, Prefect events out: stored first, answered at once, told to Prefect as often as it takes."""
