"""The words of the ``runbook`` command, a file for each kind."""
