"""From scores and embeddings to files that MultiQC shows."""
