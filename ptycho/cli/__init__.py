"""The command line. Modules here are light: numpy, torch and matplotlib are imported when a verb runs."""
