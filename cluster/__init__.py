"""How the method runs on Ray: session, embedding, training, pipeline."""
