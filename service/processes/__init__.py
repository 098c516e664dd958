"""Several processes: a supervisor, HTTP frontends, one engine a device, and the messages between them."""
