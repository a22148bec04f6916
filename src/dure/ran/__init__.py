"""AI-RAN: cell sites whose GPU serves the radio first and lends the rest."""
