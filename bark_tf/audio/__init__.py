"""Reading, writing and editing of audio."""
