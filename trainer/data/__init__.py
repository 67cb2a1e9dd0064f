"""What a record holds, and how records are read and written."""
