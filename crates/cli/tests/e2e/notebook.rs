//! A notebook as somebody uses it. It installs JupyterLab, so it runs only where that was asked for.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use super::world::{World, left_out, may_install, wait, workload};

/// How long an environment may take on a busy machine.
const INSTALL_MAX: Duration = Duration::from_secs(1_200);
const ANSWER_MAX: Duration = Duration::from_secs(120);

/// What a browser does: logs in by a link, keeps the cookie, and talks to a kernel over a web socket. Prints what it saw.
const BROWSER: &str = r#"
import asyncio, json, sys, urllib.parse, uuid
from tornado.httpclient import AsyncHTTPClient, HTTPRequest
from tornado.websocket import websocket_connect
link, jar, doing = sys.argv[1:4]
at = urllib.parse.urlsplit(link)
base = f"{at.scheme}://{at.netloc}" + at.path.removesuffix("lab")
client = AsyncHTTPClient()
cookies = json.load(open(jar)) if doing == "again" else {}

def heads():
    words = {"Cookie": "; ".join(f"{name}={value}" for name, value in cookies.items())}
    if "_xsrf" in cookies:
        words["X-XSRFToken"] = cookies["_xsrf"]
    return words

async def ask(method, path, body=None, good=(200, 201, 204)):
    url = path if path.startswith("http") else base + path
    text = None if body is None else json.dumps(body)
    request = HTTPRequest(url, method, heads(), text, follow_redirects=False, request_timeout=100)
    answer = await client.fetch(request, raise_error=False)
    assert answer.code in good, (method, path, answer.code, answer.body)
    for line in answer.headers.get_list("Set-Cookie"):
        name, _, value = line.split(";")[0].partition("=")
        cookies[name] = value
    return json.loads(answer.body) if answer.body[:1] in (b"{", b"[") else answer.body.decode()

async def run(kernel, code):
    socket = "ws" + base.removeprefix("http") + f"api/kernels/{kernel}/channels"
    socket = await websocket_connect(HTTPRequest(socket, headers=heads()))
    header = {"msg_id": uuid.uuid4().hex, "username": "", "session": "s", "msg_type": "execute_request", "version": "5.3"}
    content = {"code": code, "silent": False}
    message = {"header": header, "parent_header": {}, "metadata": {}, "content": content, "channel": "shell", "buffers": []}
    await socket.write_message(json.dumps(message))
    while True:
        heard = json.loads(await asyncio.wait_for(socket.read_message(), 100))
        assert heard["msg_type"] != "error", heard
        if heard["msg_type"] == "stream":
            return heard["content"]["text"].strip()

async def main():
    if doing == "first":
        await ask("GET", "api/contents", good=(403,))
        assert "JupyterLab" in await ask("GET", link)
        cell = {"cell_type": "code", "execution_count": None, "metadata": {}, "outputs": [], "source": "1"}
        notebook = {"cells": [cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 4}
        await ask("PUT", "api/contents/a.ipynb", {"type": "notebook", "format": "json", "content": notebook})
        opened = {"path": "a.ipynb", "name": "a", "type": "notebook", "kernel": {"name": "python3"}}
        await ask("POST", "api/sessions", opened, good=(201,))
        tabs = {"data": {"tabs": ["a.ipynb"]}, "metadata": {"id": "default"}}
        await ask("PUT", "lab/api/workspaces/default", tabs)
    sessions = await ask("GET", "api/sessions")
    told = await run(sessions[0]["kernel"]["id"], "import os; print(os.environ['TOMBOLO_SITE'], open('inputs/raw/raw.csv').read())")
    files = sorted(one["name"] for one in (await ask("GET", "api/contents"))["content"])
    tabs = (await ask("GET", "lab/api/workspaces/default"))["data"]
    json.dump(cookies, open(jar, "w"))
    print(json.dumps({"told": told, "files": files, "tabs": tabs, "sessions": [[one["id"], one["path"], one["kernel"]["id"]] for one in sessions]}))

asyncio.run(main())
"#;

struct Browser<'w> {
    world: &'w World,
    python: String,
}

impl Browser<'_> {
    /// With the Python of the notebook's own environment, which has what it needs.
    fn new(world: &World) -> Browser<'_> {
        let envs = fs::read_dir(world.site_dir("here").join("envs")).unwrap();
        let python = envs.map(|env| env.unwrap().path().join("bin/python"));
        let python =
            python.into_iter().find(|python| python.exists() && !python.to_string_lossy().contains("tools-uv"));
        fs::write(world.path("browser.py"), BROWSER).unwrap();
        Browser { world, python: python.unwrap().display().to_string() }
    }

    fn sees(&self, link: &str, doing: &str) -> Value {
        let mut command = Command::new(&self.python);
        command.arg(self.world.path("browser.py")).arg(link).arg(self.world.path("jar")).arg(doing);
        let done = self.world.finish(command, "");
        assert_eq!(done.code, 0, "{done}\n{}", self.world.logs());
        serde_json::from_str(&done.out).unwrap()
    }
}

/// Whether a gateway passes requests on to it.
fn answers(link: &str) -> bool {
    let (address, path) = link.trim_start_matches("http://").split_once('/').unwrap();
    let Ok(mut stream) = TcpStream::connect(address) else { return false };
    stream.set_read_timeout(Some(ANSWER_MAX)).unwrap();
    let base = path.split("lab?").next().unwrap();
    write!(stream, "GET /{base}api HTTP/1.1\r\nHost: gate\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    answer.lines().next().is_some_and(|line| line.contains(" 200 "))
}

/// Login, files, tabs, open notebooks and links stay, wherever it goes.
#[test]
#[ignore = "installs JupyterLab, 60 packages: cargo test --workspace --test e2e a_notebook -- --ignored"]
fn a_notebook_moves_with_all_that_is_open_in_it() {
    if !may_install() {
        return left_out("a notebook installs JupyterLab; TOMBOLO_E2E=1 runs it, as `cargo xtask test` does");
    }
    let world = World::with_sites(&[("here", &[]), ("there", &[])]);
    // By price alone it would be there.
    world.ok(&["site", "set", "here", "--price", "cpu_hour=9"]);
    fs::write(world.path("raw.csv"), "a,b").unwrap();
    world.ok(&["data", "add", "raw", &world.path("raw.csv").display().to_string(), "--site", "here"]);
    let opened = world.json(&["notebook", "--name", "eda", "--near", "raw"]);
    assert_eq!((&opened["run"], &opened["sites"][0]), (&"notebook-eda-1".into(), &"here".into()), "{opened:#}");
    let links = opened["links"].as_array().unwrap();
    let link = |site: &str| links.iter().find(|link| link["site"] == site).unwrap()["url"].as_str().unwrap().to_owned();

    let browser = Browser::new(&world);
    // Through the other site's gateway, as soon as that has heard of it.
    wait(ANSWER_MAX, "the gateway to know it", || answers(&link("there")).then_some(()));
    let first = browser.sees(&link("there"), "first");
    assert_eq!(first["told"], "here a,b");
    assert_eq!(first["files"], serde_json::json!(["a.ipynb", "inputs"]));

    let quote = world.json(&["move", "notebook-eda/lab", "--to", "there", "--quote"]);
    assert!(quote["lost"].to_string().contains("kernels hold: they restart"), "{quote:#}");
    let moved = world.json(&["move", "notebook-eda/lab", "--to", "there"]);
    assert_eq!((&moved["method"], &moved["stage"]), (&"checkpoint".into(), &"done".into()), "{moved:#}");
    let again = browser.sees(&link("there"), "again");
    assert_eq!(again["told"], "there a,b");
    for kept in ["files", "tabs", "sessions"] {
        assert_eq!(again[kept], first[kept], "{kept}");
    }
    assert_eq!(first["tabs"]["tabs"][0], "a.ipynb");

    // Asked for again it is the same; with other wishes it is refused; stopped, it goes on with what it had.
    let same = world.json(&["notebook", "--name", "eda"]);
    assert_eq!((&same["links"], &same["sites"][0]), (&opened["links"], &"there".into()));
    let refused = world.cli(&["notebook", "--name", "eda", "--cpus", "1"]);
    assert!(refused.code == 2 && refused.err.contains("there is a notebook notebook-eda already"), "{refused}");
    world.ok(&["stop", "notebook-eda-1"]);
    world.wait_run_within(INSTALL_MAX, "notebook-eda-1", &["stopped"]);
    let back = world.json(&["notebook", "--name", "eda"]);
    assert_eq!((&back["run"], &back["links"]), (&opened["run"], &opened["links"]));
    let view = world.view("notebook-eda-1");
    assert_eq!(workload(&view, "lab")["state"], "ready");
    wait(ANSWER_MAX, "the gateway to know it again", || answers(&link("there")).then_some(()));
    let last = browser.sees(&link("there"), "again");
    assert_eq!((&last["files"], &last["sessions"]), (&first["files"], &first["sessions"]));
    world.ok(&["stop", "notebook-eda-1"]);
}
