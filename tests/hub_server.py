"""
Serves a Hub on loopback, which answers what huggingface_hub 2.4 asks of huggingface.co to create model repositories, to
push to them, and to pull from them.

    with HubServer() as hub:
        subprocess.run([...], env=hub.environment(cache_folder))
        hub.files("user/name")["config.json"]  # its content
        hub.requests  # [Request(method="POST", path="/api/repos/create", status=200), ...]

Everything is kept in memory. Each commit keeps its own snapshot, so branches and commit hashes are real revisions. A
request that the Hub does not know gets the status 501, and never a guess.
"""

import base64
import hashlib
import json
import os
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

import yaml


class Request(NamedTuple):
    method: str
    path: str
    status: int


class Refused(Exception):
    """Holds an answer other than 200: its status, the Hub's name for the error or None, and the message for the user."""


class Repository:
    """Holds commits as snapshots, `{hash: {path: content}}`, and branches, `{name: hash}`."""

    def __init__(self):
        self.commits, self.branches = {}, {}
        self.commit({})

    def commit(self, changes, branch="main"):
        """Writes the files in `changes`, and deletes those whose content is None. Returns the hash of the commit."""
        files = self.commits.get(self.branches.get(branch), {}) | changes
        commit = f"{len(self.commits):040x}"
        self.commits[commit] = {path: content for path, content in files.items() if content is not None}
        self.branches[branch] = commit
        return commit

    def resolve(self, revision):
        commit = self.branches.get(revision, revision)
        if commit not in self.commits:
            raise Refused(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return commit, self.commits[commit]


class HubServer(ThreadingHTTPServer):
    user = "user"
    token = "hf_made_up"
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.repositories, self.uploads = {}, {}
        self.requests = []
        self.lock = threading.Lock()

    def __enter__(self):
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *exception):
        self.shutdown()
        self.server_close()

    def environment(self, home):
        """Returns the environment of a process that knows only this Hub and keeps its downloads in the folder `home`."""
        ours = {"HF_ENDPOINT": self.url, "HF_TOKEN": self.token, "HF_HOME": str(home)}
        ours |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
        theirs = ("HF_", "HUGGING", "TRANSFORMERS_")  # caches, tokens, offline modes
        return {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(theirs) and not name.lower().endswith("_proxy")
        } | ours

    def files(self, repo_id, revision="main"):
        """Returns the files of a revision, `{path: content}`."""
        return self.repositories[repo_id].resolve(revision)[1]


def check_card(text):
    """Refuses, as the Hub does, a README.md whose metadata is bad YAML or names what can be no model or dataset."""
    metadata = re.match(r"---\n(.*?)\n---", text, re.DOTALL)
    try:
        metadata = (metadata and yaml.safe_load(metadata[1])) or {}
    except yaml.YAMLError as error:
        raise Refused(400, None, f"bad YAML: {error}") from error
    for field, kind in (("base_model", "model"), ("datasets", "dataset")):
        values = metadata.get(field) or []
        for value in [values] if isinstance(values, str) else values:
            if not re.fullmatch(r"([\w.-]+/)?[\w.-]+", value):
                raise Refused(400, None, f'"{field}" with value "{value}" is not valid. Use a {kind} id of the Hub.')


def digest(content):
    return hashlib.sha256(content).hexdigest()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # connections stay open, so each answer must say its length

    def log_message(self, *arguments):
        pass  # `HubServer.requests` is the log

    def do_GET(self):
        path = unquote(urlsplit(self.path).path)
        self.content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        status, headers = 200, {}
        try:
            answer = self.answer(f"{self.command} {path}")
            if isinstance(answer, tuple):
                answer, headers = answer
        except Refused as refused:
            status, code, message = refused.args
            answer, headers = {"errors": [{"message": message}]}, {"X-Error-Code": code} if code else {}
        body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.server.requests.append(Request(self.command, path, status))
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(body))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_HEAD = do_POST = do_PUT = do_GET

    def answer(self, request):
        authorization = self.headers.get("Authorization")
        # Anybody may read, but not with a wrong token. Uploads come without a token, as only the owner knows their address.
        if authorization != f"Bearer {self.server.token}" and (authorization or self.command == "POST"):
            raise Refused(401, None, "Invalid username or password.")
        for pattern, function in ROUTES.items():
            if found := re.fullmatch(pattern, request):
                with self.server.lock:
                    return function(self, *found.groups())
        raise Refused(501, None, f"This Hub cannot answer {request}")

    def whoami(self):
        return {"type": "user", "name": self.server.user, "orgs": []}

    def create(self):
        wanted = json.loads(self.content)
        repo_id = f"{wanted['organization'] or self.server.user}/{wanted['name']}"
        self.server.repositories.setdefault(repo_id, Repository())
        return {"url": f"{self.server.url}/{repo_id}"}

    def repository(self, repo_id):
        if repo_id not in self.server.repositories:
            raise Refused(404, "RepoNotFound", f"Repository not found: {repo_id}")
        return self.server.repositories[repo_id]

    def validate_card(self):
        check_card(json.loads(self.content)["content"])
        return {}

    def info(self, repo_id, revision):
        commit, files = self.repository(repo_id).resolve(revision or "main")
        return {"id": repo_id, "sha": commit, "tags": [], "siblings": [{"rfilename": path} for path in files]}

    def tree(self, repo_id, revision, folder):
        _, files = self.repository(repo_id).resolve(revision)
        files = {path: content for path, content in files.items() if path.startswith(folder or "")}
        if folder and not files:
            raise Refused(404, "EntryNotFound", f"{folder} does not exist on {revision}")
        return [{"type": "file", "path": path, "size": len(data), "oid": digest(data)} for path, data in files.items()]

    def refs(self, repo_id):
        branches = self.repository(repo_id).branches.items()
        branches = [{"name": name, "ref": f"refs/heads/{name}", "targetCommit": commit} for name, commit in branches]
        return {"branches": branches, "converts": [], "tags": []}

    def branch(self, repo_id, name):
        repository = self.repository(repo_id)
        if name in repository.branches:
            raise Refused(409, None, f"Reference already exists: {name}")
        repository.branches[name], _ = repository.resolve(json.loads(self.content).get("startingPoint", "main"))
        return {}

    def preupload(self, repo_id, revision):
        self.repository(repo_id).resolve(revision)
        files = json.loads(self.content)["files"]
        for file in files:
            file["uploadMode"] = "lfs" if file["path"].endswith((".safetensors", ".bin")) else "regular"
            file["shouldIgnore"] = False
        return {"files": files}

    def lfs_batch(self, repo_id):
        objects = json.loads(self.content)["objects"]
        for entry in objects:
            entry["actions"] = {"upload": {"href": f"{self.server.url}/uploads/{entry['oid']}"}}
        return {"objects": objects}

    def upload(self, oid):
        if digest(self.content) != oid:
            raise Refused(400, None, "the content does not have the digest that was announced")
        self.server.uploads[oid] = self.content
        return {}

    def commit(self, repo_id, branch):
        changes = {}
        for operation in map(json.loads, self.content.splitlines()):
            value = operation["value"]
            if operation["key"] == "file":
                changes[value["path"]] = base64.b64decode(value["content"])
            elif operation["key"] == "lfsFile":
                changes[value["path"]] = self.server.uploads[value["oid"]]
            elif operation["key"] != "header":
                raise Refused(501, None, f"This Hub cannot commit a {operation['key']}")
        commit = self.repository(repo_id).commit(changes, branch)
        return {"commitUrl": f"{self.server.url}/{repo_id}/commit/{commit}", "commitOid": commit}

    def file(self, repo_id, revision, path):
        commit, files = self.repository(repo_id).resolve(revision)
        if path not in files:
            raise Refused(404, "EntryNotFound", f"{path} does not exist on {revision}")
        return files[path], {"X-Repo-Commit": commit, "ETag": f'"{digest(files[path])}"'}


REPOSITORY = r"/([\w.-]+/[\w.-]+)"
ROUTES = {
    "GET /api/whoami-v2": Handler.whoami,
    "POST /api/repos/create": Handler.create,
    "POST /api/validate-yaml": Handler.validate_card,
    f"GET /api/models{REPOSITORY}(?:/revision/(.+))?": Handler.info,
    f"GET /api/models{REPOSITORY}/tree/([^/]+)(?:/(.+))?": Handler.tree,
    f"GET /api/models{REPOSITORY}/refs": Handler.refs,
    f"POST /api/models{REPOSITORY}/branch/(.+)": Handler.branch,
    f"POST /api/models{REPOSITORY}/preupload/(.+)": Handler.preupload,
    f"POST /api/models{REPOSITORY}/commit/(.+)": Handler.commit,
    rf"POST {REPOSITORY}\.git/info/lfs/objects/batch": Handler.lfs_batch,
    "PUT /uploads/([0-9a-f]{64})": Handler.upload,
    f"(?:GET|HEAD) {REPOSITORY}/resolve/([^/]+)/(.+)": Handler.file,
}
