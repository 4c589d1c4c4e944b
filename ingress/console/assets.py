"""Style sheet, scripts and icon of every page, and the headers that go with pages."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from fastapi import APIRouter, HTTPException
from fastapi.responses import FileResponse

HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_TYPES: Final = {
    "console.css": "text/css",
    "console.js": "text/javascript",
    "theme.js": "text/javascript",
    "icon.svg": "image/svg+xml",
}
_FOLDER: Final = Path(__file__).with_name("static")


def create_asset_router(prefix: str) -> APIRouter:
    """A router with ``{prefix}/static/...``."""
    router = APIRouter(prefix=f"{prefix}/static", include_in_schema=False)

    @router.get("/{name}")
    async def asset(name: str) -> FileResponse:
        if name not in _TYPES:
            raise HTTPException(404)
        headers = {**HEADERS, "Cache-Control": "public, max-age=300"}
        return FileResponse(_FOLDER / name, media_type=_TYPES[name], headers=headers)

    return router
