"""What people see of a study: the live table, the leaderboard, the numbers in report.json."""
