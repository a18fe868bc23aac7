"""What the command line prints: tables, live views, texts of users."""
