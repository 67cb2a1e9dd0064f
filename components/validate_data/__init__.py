"""Step 1: checks every record before anything is trained on it."""

from components.validate_data.validation import validate as validate
