"""A fake OpenID provider on loopback, as Hugging Face's: users choose who they are, and get a token of their own."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlencode, urlsplit

from joserfc import jwt
from joserfc.jwk import RSAKey

CLIENT = {
    "OAUTH_CLIENT_ID": "gauge",
    "OAUTH_CLIENT_SECRET": "canary-client-secret",
    "OAUTH_SCOPES": "openid profile inference-api",
}
USERS = ("ada", "bob")


def token_of(user: str) -> str:
    return f"hf_oauth_canary_{user}_0123456789"


class OpenIDProvider(ThreadingHTTPServer):
    """The provider's server. `scopes` lists what was asked for."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.key = RSAKey.generate_key(2048, {"kid": "1", "use": "sig", "alg": "RS256"})
        self.scopes: list[str] = []

    @property
    def url(self) -> str:
        # Another name than the page's, so that the way there and back crosses sites, as it does on a Space.
        return f"http://localhost:{self.server_port}"

    def id_token(self, user: str, nonce: str) -> str:
        now = int(time.time())
        issued = {"iss": self.url, "aud": CLIENT["OAUTH_CLIENT_ID"], "iat": now, "exp": now + 3600, "nonce": nonce}
        profile = {"profile": f"{self.url}/{user}", "picture": f"{self.url}/{user}.png"}
        claims = {"sub": user, "name": user.title(), "preferred_username": user, **issued, **profile}
        return jwt.encode({"alg": "RS256", "kid": "1"}, claims, self.key)


class _Handler(BaseHTTPRequestHandler):
    server: OpenIDProvider

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        url = self.server.url
        if parts.path == "/.well-known/openid-configuration":
            self._send_json(
                {
                    "issuer": url,
                    "authorization_endpoint": f"{url}/oauth/authorize",
                    "token_endpoint": f"{url}/oauth/token",
                    "jwks_uri": f"{url}/oauth/jwks",
                    "id_token_signing_alg_values_supported": ["RS256"],
                }
            )
        elif parts.path == "/oauth/jwks":
            self._send_json({"keys": [self.server.key.as_dict(private=False)]})
        elif parts.path == "/oauth/authorize":
            self.server.scopes.append(query["scope"])
            links = [
                (user, urlencode({"code": f"{user} {query.get('nonce', '')}", "state": query["state"]}))
                for user in USERS
            ]
            links.append(("nobody", urlencode({"error": "access_denied", "state": query["state"]})))
            joint = "&" if "?" in query["redirect_uri"] else "?"
            page = "".join(f'<a href="{query["redirect_uri"]}{joint}{answer}">{name}</a> ' for name, answer in links)
            self._send(page.encode(), "text/html")
        else:
            self.send_error(404)

    def do_POST(self) -> None:
        form = parse_qs(self.rfile.read(int(self.headers["content-length"])).decode())
        user, _, nonce = form["code"][0].partition(" ")
        fields = {
            "access_token": token_of(user),
            "token_type": "bearer",
            "expires_in": 3600,
            "scope": CLIENT["OAUTH_SCOPES"],
        }
        self._send_json(
            {**fields, "expires_at": int(time.time()) + 3600, "id_token": self.server.id_token(user, nonce)}
        )

    def _send_json(self, fields: object) -> None:
        self._send(json.dumps(fields).encode(), "application/json")

    def _send(self, body: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


@contextmanager
def run_openid_provider() -> Iterator[OpenIDProvider]:
    with OpenIDProvider() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
