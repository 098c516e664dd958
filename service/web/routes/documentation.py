"""Documentation route: the page of Swagger UI at `/docs`, which shows `/openapi.json`."""

from __future__ import annotations

import base64
import hashlib

from fastapi import APIRouter, Response

_SWAGGER_UI = "https://cdn.jsdelivr.net/npm/swagger-ui-dist@5.35.0/"
"""One version, of which browsers run nothing else than what the hashes below say."""

_SCRIPT_HASH = "sha384-gjRm0bEPMeTmMh5jT2cHccIwCUZSTd8YC+j0d0sXw0MdGEfScduGpSyF3ZSSLkX9"
_STYLE_HASH = "sha384-WlYgdmXYOOBWL5apwjDEZwN+U3HmXSSu5R6V5aGxEcf7z+KuRNwBhoxKVN1i3D5I"
_START = 'SwaggerUIBundle({url: "openapi.json", dom_id: "#swagger-ui", deepLinking: true})'

# Its links to the service are relative, so that they work behind any proxy.
_PAGE = f"""<!doctype html>
<html lang="en">
<head>
  <meta charset="utf-8">
  <title>Polytask: API</title>
  <meta name="viewport" content="width=device-width, initial-scale=1">
  <link rel="icon" type="image/svg+xml" href="playground/icon.svg">
  <link rel="stylesheet" href="{_SWAGGER_UI}swagger-ui.css" crossorigin="anonymous" integrity="{_STYLE_HASH}">
  <script src="{_SWAGGER_UI}swagger-ui-bundle.js" crossorigin="anonymous" integrity="{_SCRIPT_HASH}"></script>
</head>
<body>
  <div id="swagger-ui"></div>
  <script>{_START}</script>
</body>
</html>
""".encode()

_HEADERS = {
    # Swagger UI and the script that starts it. It sets styles of its own, and its pictures are in its styles.
    "Content-Security-Policy": "default-src 'none'; "
    f"script-src {_SWAGGER_UI} 'sha256-{base64.b64encode(hashlib.sha256(_START.encode()).digest()).decode()}'; "
    f"style-src {_SWAGGER_UI} 'unsafe-inline'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
}


def documentation_routes() -> APIRouter:
    """`/docs`."""
    router = APIRouter(include_in_schema=False)

    @router.head("/docs")
    @router.get("/docs")
    async def docs() -> Response:
        return Response(_PAGE, headers=_HEADERS, media_type="text/html")

    return router
