"""HTTP routes: tasks, versions, administration, the Open Inference Protocol and the playground."""
