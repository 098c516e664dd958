"""A checkpoint's answers over HTTP: from the wire down to the device, and back through the request's own future."""
