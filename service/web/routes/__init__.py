"""HTTP routes: tasks, operations, versions, administration, the Open Inference Protocol and the playground."""
