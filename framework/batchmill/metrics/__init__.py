"""What reported metrics mean: which direction is better, how two runs differ, when a build fails. Pure functions."""
