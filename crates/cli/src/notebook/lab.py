"""JupyterLab as a service that moves from site to site.

Started as a program, it makes $TOMBOLO_STATE a home for all that Jupyter keeps, and becomes Jupyter with this same file
as its configuration.
"""

import hashlib
import json
import os
import pathlib
import sys

STATE = pathlib.Path(os.environ["TOMBOLO_STATE"])
OWN = STATE / ".jupyter"
OPEN = OWN / "open.json"
PROJECT = os.environ["TOMBOLO_RUN"].rpartition("-")[0]


def start():
    OWN.mkdir(exist_ok=True)
    inputs, link = pathlib.Path.cwd() / "inputs", STATE / "inputs"
    if link.is_symlink():
        link.unlink()
    if inputs.is_dir() and not link.exists():
        link.symlink_to(inputs)
    os.environ.update(
        JUPYTER_CONFIG_DIR=str(OWN / "config"),
        JUPYTER_DATA_DIR=str(OWN / "data"),
        IPYTHONDIR=str(OWN / "ipython"),
        # Of this placement alone.
        JUPYTER_RUNTIME_DIR=str(pathlib.Path.cwd() / "runtime"),
    )
    os.execvp("jupyter-lab", ["jupyter-lab", f"--config={pathlib.Path(__file__).resolve()}"])


def configure(c):
    token = os.environ[f"{PROJECT}-token".upper().replace("-", "_")]
    c.ServerApp.ip = "127.0.0.1"
    c.ServerApp.port = int(os.environ["PORT"])
    c.ServerApp.port_retries = 0
    c.ServerApp.open_browser = False
    c.ServerApp.allow_root = True
    # Ended from the browser it would only be started again.
    c.ServerApp.quit_button = False
    # Gateways pass the path and the host as they were asked for, at whatever name they are reached.
    c.ServerApp.base_url = f"/{PROJECT}/{os.environ['TOMBOLO_STAGE']}/"
    c.ServerApp.allow_remote_access = True
    c.ServerApp.trust_xheaders = True
    c.IdentityProvider.token = token
    # The same at every site, so that who is logged in stays so.
    c.ServerApp.cookie_secret = hashlib.sha256(f"cookies of {token}".encode()).digest()
    c.ServerApp.root_dir = str(STATE)
    c.LabApp.workspaces_dir = str(OWN / "workspaces")
    c.LabApp.user_settings_dir = str(OWN / "settings")
    c.LabApp.check_for_updates_class = "jupyterlab.NeverCheckForUpdate"
    c.LabApp.news_url = None
    # The trash is somebody's home directory, which stays behind.
    c.FileContentsManager.delete_to_trash = False
    c.ServerApp.session_manager_class = kept_sessions()


def kept_sessions():
    """Sessions (which notebook has which kernel) that are there again, with new kernels, wherever this is started."""
    from jupyter_server.services.sessions.sessionmanager import SessionManager
    from tornado.ioloop import IOLoop

    class KeptSessions(SessionManager):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            # Before the first request is answered: a browser forgets a kernel that is not there.
            IOLoop.current().run_sync(self.bring_back)

        async def bring_back(self):
            try:
                kept = json.loads(OPEN.read_text())
            except (OSError, ValueError):
                return
            for one in kept:
                try:
                    await self.bring_back_one(one)
                except Exception as error:
                    self.log.warning("the kernel of %s can't be started again: %s", one, error)

        async def bring_back_one(self, one):
            path = one["path"]
            await self.kernel_manager.start_kernel(path=path, kernel_name=one["kernel"], kernel_id=one["kernel_id"])
            await super().save_session(
                one["id"], path=path, name=one["name"], type=one["type"], kernel_id=one["kernel_id"]
            )

        def keep(self):
            rows = self.cursor.execute("SELECT session_id, path, name, type, kernel_id FROM session").fetchall()
            kept = [
                {
                    "id": row[0],
                    "path": row[1],
                    "name": row[2],
                    "type": row[3],
                    "kernel_id": row[4],
                    "kernel": self.kernel_manager.get_kernel(row[4]).kernel_name,
                }
                for row in rows
                if row[4] in self.kernel_manager
            ]
            new = OPEN.with_suffix(".new")
            new.write_text(json.dumps(kept))
            new.replace(OPEN)

        async def save_session(self, *args, **kwargs):
            saved = await super().save_session(*args, **kwargs)
            self.keep()
            return saved

        async def update_session(self, *args, **kwargs):
            await super().update_session(*args, **kwargs)
            self.keep()

        async def delete_session(self, *args, **kwargs):
            await super().delete_session(*args, **kwargs)
            self.keep()

    return KeptSessions


if "get_config" in globals():
    configure(get_config())  # noqa: F821
elif __name__ == "__main__":
    sys.exit(start())
