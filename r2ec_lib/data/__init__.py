"""Raw logs → validated tables → samples. Nothing here knows of models."""
