"""The conditional multi-task network: a text and a task go in, an answer comes out."""
