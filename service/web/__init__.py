"""HTTP: the application, its server, connections, error responses and the OpenAPI document."""
