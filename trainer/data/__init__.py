"""Record formats, reading and writing of records, the input pipeline."""
