"""From files to volumes: reading, checking, preparing, and the phantom."""
