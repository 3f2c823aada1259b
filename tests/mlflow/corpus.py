"""Requests that are sent to MLflow's own server and to Tombolo's, one after the other.

`ask(method, path, body)` sends one under /api/2.0/mlflow and returns the answer, of which later ones use ids.
"""

from urllib.parse import quote


def registry(ask):
    post = lambda path, body: ask("POST", path, body)
    get = lambda path: ask("GET", path, None)
    patch = lambda path, body: ask("PATCH", path, body)
    delete = lambda path, body: ask("DELETE", path, body)

    info = post("runs/create", {"experiment_id": "0", "start_time": 1000, "run_name": "r"})["run"]["info"]
    run, uri = info["run_id"], info["artifact_uri"]
    for name in ["a", "a", None, "", " ", "x/y", "x:y", ".", 5]:
        post("registered-models/create", {"name": name})
    twice = [{"key": "k", "value": "v"}, {"key": "k", "value": "w"}]
    post("registered-models/create", {"name": "b", "description": "d", "tags": twice})
    for query in ["?name=a", "?name=zz", "", "?name=b"]:
        get("registered-models/get" + query)

    tagged = {"description": "first", "tags": [{"key": "t", "value": "1"}]}
    post("model-versions/create", {"name": "a", "source": uri + "/m", "run_id": run, **tagged})
    for source, more in [
        (uri + "/m", {"run_id": run}),
        (f"runs:/{run}/m", {"run_id": run}),
        (f"runs:/{run}/m", {}),
        (uri + "/m", {}),
        ("s3://b/m", {}),
        ("s3://b/m", {"run_link": "http://x/y"}),
        ("/etc/passwd", {}),
        ("http://h/m", {}),
        ("hdfs://h/m", {}),
        ("mlflow-artifacts:/0/../x", {}),
        ("s3://b/../m", {}),
        ("s3://b/%2e%2e/m", {}),
        ("", {}),
        (None, {}),
    ]:
        post("model-versions/create", {"name": "a", "source": source, **more})
    post("model-versions/create", {"name": "zz", "source": uri + "/m", "run_id": run})
    for source in ["models:/a/1", "models:/a/99", "models:/zz/1"]:
        post("model-versions/create", {"name": "b", "source": source})
    logged = post("logged-models", {"experiment_id": "0", "name": "l", "source_run_id": run})["model"]["info"]
    model = logged["model_id"]
    for source, more in [
        ("models:/" + model, {"model_id": model}),
        ("models:/" + model, {}),
        (logged["artifact_uri"], {"model_id": model}),
        (uri + "/m", {"model_id": model}),
    ]:
        post("model-versions/create", {"name": "b", "source": source, **more})
    get("logged-models/" + model)
    for query in ["name=a&version=1", "name=a&version=77", "name=a&version=x", "name=a", "name=zz&version=1"]:
        get("model-versions/get?" + query)
        get("model-versions/get-download-uri?" + query)
    for query in ["name=b&version=1", "name=b&version=2", "name=a&version=3"]:
        get("model-versions/get-download-uri?" + query)
    for more in [{"description": "new"}, {"description": ""}, {}]:
        patch("model-versions/update", {"name": "a", "version": "1", **more})
        patch("registered-models/update", {"name": "a", **more})
    patch("model-versions/update", {"name": "a", "version": "99"})
    patch("registered-models/update", {"name": "zz"})

    for alias, version in [("champion", "1"), ("Champion", "2"), ("champion", "2"), ("7", "1"), ("ok", "99"), ("ok", None)]:
        post("registered-models/alias", {"name": "a", "alias": alias, "version": version})
    for alias in ["", "v1", "V12", "latest", "LATEST", "a b", "x" * 256, "a.b", "version1"]:
        post("registered-models/alias", {"name": "a", "alias": alias, "version": "1"})
    post("registered-models/alias", {"name": "zz", "alias": "ok", "version": "1"})
    for query in ["name=a&alias=champion", "name=a&alias=latest", "name=a&alias=none", "name=zz&alias=none"]:
        get("registered-models/alias?" + query)
    get("registered-models/get?name=a")
    get("model-versions/get?name=a&version=2")
    for name in ["a", "a", "zz"]:
        delete("registered-models/alias", {"name": name, "alias": "Champion"})

    for version, stage, archive in [
        ("1", "production", False),
        ("2", "Production", True),
        ("3", "staging", True),
        ("2", "nope", False),
        ("2", "Archived", True),
        ("2", None, False),
        ("99", "Staging", False),
    ]:
        body = {"name": "a", "version": version, "stage": stage, "archive_existing_versions": archive}
        post("model-versions/transition-stage", body)
    for stages in [None, [], ["production"], ["None", "ARCHIVED"], ["zz"]]:
        post("registered-models/get-latest-versions", {"name": "a", "stages": stages})
    post("registered-models/get-latest-versions", {"name": "zz"})
    get("registered-models/get-latest-versions?name=a&stages=None")

    for key, value in [("k", "1"), ("k", "2"), ("", "2"), ("k/", "2"), ("k" * 251, "2"), ("k", "x" * 100_001), ("k", None)]:
        post("registered-models/set-tag", {"name": "a", "key": key, "value": value})
        post("model-versions/set-tag", {"name": "a", "version": "1", "key": key, "value": value})
    post("registered-models/set-tag", {"name": "zz", "key": "k", "value": "1"})
    post("model-versions/set-tag", {"name": "a", "version": "99", "key": "k", "value": "1"})
    for name in ["a", "a", "zz"]:
        delete("registered-models/delete-tag", {"name": name, "key": "k"})
    for version in ["1", "1", "99"]:
        delete("model-versions/delete-tag", {"name": "a", "version": version, "key": "k"})

    post("registered-models/create", {"name": "p", "tags": [{"key": "mlflow.prompt.is_prompt", "value": "true"}]})
    for text in [
        "", "name = 'a'", 'name = "a"', "name != 'a'", "name LIKE 'A%'", "name LIKE 'a%'", "name ILIKE 'A%'",
        "name IN ('a', 'b')", "name NOT IN ('a')", "tags.k = 'w'", "tags.k != 'z'", "tags.k LIKE 'W'", "tags.k ILIKE 'W'",
        "tag.k = 'w'", "tags.`k` = 'w'", "attributes.name = 'a'", "name = 'a' AND tags.k = 'w'", "name = 'b' and tags.k = 'w'",
        "tags.`mlflow.prompt.is_prompt` = 'true'", "tags.k IN ('w')", "description = 'd'", "name > 'a'", "nonsense",
        "name = a", "metrics.x > 1", "name = 'a' OR name = 'b'", "name = 'a",
    ]:
        get("registered-models/search?filter=" + quote(text))
    for order in ["name", "name DESC", "name asc", "timestamp DESC", "nope", "name, name"]:
        get("registered-models/search?order_by=" + quote(order))
    for most in ["1", "2", "1000", "1001", "x"]:
        get("registered-models/search?max_results=" + most)
    for text in [
        "", "name = 'a'", "name ILIKE 'A'", "name IN ('a')", "name NOT IN ('a')", f"run_id = '{run}'", f"run_id IN ('{run}')",
        "run_id IN ('none')", "source_path LIKE '%/m'", "source_path = 's3://b/m'", "version_number > 1", "version_number = 2",
        "version_number <= 2", "version_number LIKE '2'", "tags.t = '1'", "tags.t != '2'", "current_stage = 'Production'",
        "source_path IN ('x')", "name = 'a' AND version_number = 1", "name > 'a'", "tags.t = 1",
    ]:
        get("model-versions/search?order_by=name&order_by=version_number&filter=" + quote(text))
    for order in ["version_number DESC", "name", "nope"]:
        get("model-versions/search?max_results=2&order_by=" + quote(order))
    for most in ["0", "200000", "200001"]:
        get("model-versions/search?order_by=name&max_results=" + most)

    for name, new in [("a", "a"), ("a", "b"), ("a", "c"), ("a", "d"), ("c", None), ("c", "x/y")]:
        post("registered-models/rename", {"name": name, "new_name": new})
    get("model-versions/get?name=c&version=2")
    for _ in range(2):
        delete("model-versions/delete", {"name": "c", "version": "2"})
    get("registered-models/alias?name=c&alias=champion")
    post("model-versions/create", {"name": "c", "source": uri + "/m", "run_id": run})
    for _ in range(2):
        delete("registered-models/delete", {"name": "c"})
    get("registered-models/get?name=c")
    get("model-versions/search?filter=" + quote("name = 'c'"))
    post("registered-models/create", {"name": "c"})
    post("model-versions/create", {"name": "c", "source": uri + "/m", "run_id": run})


def tracking(ask):
    post = lambda path, body: ask("POST", path, body)
    get = lambda path: ask("GET", path, None)

    experiment = post("experiments/create", {"name": "first", "tags": [{"key": "k", "value": "v"}]})["experiment_id"]
    other = post("experiments/create", {"name": "second"})["experiment_id"]
    for name in ["first", "", None, "x" * 501]:
        post("experiments/create", {"name": name})
    for query in [f"?experiment_id={experiment}", "?experiment_id=99999", "?experiment_id=x", ""]:
        get("experiments/get" + query)
    for query in ["?experiment_name=first", "?experiment_name=none", ""]:
        get("experiments/get-by-name" + query)
    post("experiments/set-experiment-tag", {"experiment_id": experiment, "key": "k", "value": "w"})
    post("experiments/set-experiment-tag", {"experiment_id": experiment, "key": "", "value": "w"})
    post("experiments/set-experiment-tag", {"experiment_id": "99999", "key": "k", "value": "w"})
    post("experiments/update", {"experiment_id": other, "new_name": "renamed"})
    post("experiments/update", {"experiment_id": other, "new_name": "first"})
    post("experiments/delete", {"experiment_id": other})
    post("experiments/delete", {"experiment_id": other})
    post("experiments/delete", {"experiment_id": "99999"})
    post("runs/create", {"experiment_id": other})
    post("experiments/restore", {"experiment_id": other})
    post("experiments/restore", {"experiment_id": "99999"})
    for text in ["", "name = 'first'", "name LIKE 'f%'", "name ILIKE 'F%'", "tags.k = 'w'", "tags.k != 'w'", "name = first", "x = 'y'"]:
        post("experiments/search", {"filter": text, "max_results": 10, "order_by": ["name"]})
    for view in ["ACTIVE_ONLY", "DELETED_ONLY", "ALL"]:
        post("experiments/search", {"view_type": view, "max_results": 10, "order_by": ["name DESC"]})

    runs = []
    for n in range(4):
        body = {"experiment_id": experiment, "run_name": f"run{n}", "start_time": 1000 + n, "user_id": "ada"}
        runs.append(post("runs/create", {**body, "tags": [{"key": "n", "value": str(n)}]})["run"]["info"]["run_id"])
    for query in [f"?run_id={runs[0]}", "?run_id=none", ""]:
        get("runs/get" + query)
    for n, run in enumerate(runs):
        post("runs/log-parameter", {"run_id": run, "key": "depth", "value": str(n)})
        for step in range(3):
            post("runs/log-metric", {"run_id": run, "key": "loss", "value": 1.0 / (step + n + 1), "timestamp": 10 + step, "step": step})
    run = runs[0]
    for value in ["NaN", "Infinity", "-Infinity", 5e-324, "1e3"]:
        post("runs/log-metric", {"run_id": run, "key": "odd", "value": value, "timestamp": 1, "step": 1})
    for body in [
        {"key": "m", "value": "x", "timestamp": 1}, {"key": "m", "timestamp": 1}, {"key": "", "value": 1, "timestamp": 1},
        {"key": "a//b", "value": 1, "timestamp": 1}, {"key": "m" * 251, "value": 1, "timestamp": 1}, {"value": 1},
        {"key": "m", "value": 1, "timestamp": -1},
    ]:
        post("runs/log-metric", {"run_id": run, **body})
    post("runs/log-metric", {"run_id": "none", "key": "m", "value": 1, "timestamp": 1})
    post("runs/log-parameter", {"run_id": run, "key": "depth", "value": "0"})
    post("runs/log-parameter", {"run_id": run, "key": "depth", "value": "other"})
    post("runs/log-parameter", {"run_id": run, "key": "", "value": "x"})
    for key, value in [("colour", "blue"), ("colour", "red"), ("", "x"), ("a/../b", "x")]:
        post("runs/set-tag", {"run_id": run, "key": key, "value": value})
    post("runs/delete-tag", {"run_id": run, "key": "colour"})
    post("runs/delete-tag", {"run_id": run, "key": "colour"})
    post("runs/set-tag", {"run_id": run, "key": "colour", "value": "blue"})
    batch = {"metrics": [{"key": "b", "value": 1, "timestamp": 1, "step": 0}], "params": [{"key": "p", "value": "1"}], "tags": [{"key": "t", "value": "1"}]}
    post("runs/log-batch", {"run_id": run, **batch})
    post("runs/log-batch", {"run_id": run, "params": [{"key": "p", "value": "1"}, {"key": "p", "value": "2"}]})
    post("runs/log-batch", {"run_id": run, "params": [{"key": f"p{n}", "value": "1"} for n in range(101)]})
    post("runs/log-batch", {"run_id": run, "metrics": [{"key": "b", "value": 1, "timestamp": 1, "step": n} for n in range(1001)]})
    post("runs/log-batch", {"run_id": run})
    dataset = {"name": "d", "digest": "abc", "source_type": "local", "source": "x"}
    tags = [{"key": "mlflow.data.context", "value": "train"}]
    post("runs/log-inputs", {"run_id": run, "datasets": [{"dataset": dataset, "tags": tags}]})
    get(f"runs/get?run_id={run}")
    get(f"metrics/get-history?run_id={run}&metric_key=loss")
    get(f"metrics/get-history?run_id={run}&metric_key=odd")
    get(f"metrics/get-history?run_id={run}&metric_key=none")
    get(f"metrics/get-history?run_id=none&metric_key=loss")
    get(f"metrics/get-history?run_id={run}")
    post("runs/update", {"run_id": runs[1], "status": "FINISHED", "end_time": 2000})
    post("runs/update", {"run_id": runs[2], "status": "FAILED", "end_time": 2000, "run_name": "renamed"})
    post("runs/update", {"run_id": "none", "status": "FINISHED"})
    post("runs/delete", {"run_id": runs[3]})
    post("runs/log-metric", {"run_id": runs[3], "key": "m", "value": 1, "timestamp": 1})
    search = lambda **more: post("runs/search", {"experiment_ids": [experiment], "order_by": ["attributes.start_time"], **more})
    for text in [
        "", "metrics.loss < 0.3", "metrics.loss >= 0.3", "metric.loss = 0.25", "metrics.odd > 0", "metrics.none = 1",
        "params.depth = '1'", "params.depth != '1'", "params.depth LIKE '%'", "param.depth ILIKE '2'", "tags.n = '0'",
        "tags.colour = 'blue'", "tags.n IS NULL", "tags.none IS NULL", "params.none IS NOT NULL", "attributes.status = 'FINISHED'",
        "status != 'RUNNING'", "run_name = 'run0'", "attributes.run_name ILIKE 'RUN%'", "start_time > 1001", "end_time = 2000",
        f"run_id IN ('{run}')", f"attributes.run_id NOT IN ('{run}')", "dataset.name = 'd'", "datasets.digest LIKE 'a%'",
        "dataset.context = 'train'", "dataset.name IN ('d', 'e')", "metrics.loss < 0.3 and params.depth = '3'",
        "metrics.`loss` < 0.3", 'params."depth" = "1"', "user_id = 'ada'",
        "metrics.loss", "metrics.loss <", "metrics.loss < 'x'", "params.depth < '1'", "params.depth = 1", "x.y = 1", "status IN",
        "metrics.loss < 0.3 or params.depth = '1'", "run_id IN ()", "tags.n LIKE 1",
    ]:
        search(filter=text)
    for view in ["ACTIVE_ONLY", "DELETED_ONLY", "ALL", "none"]:
        search(run_view_type=view)
    for order in [["metrics.loss"], ["metrics.loss DESC"], ["params.depth DESC"], ["tags.n"], ["attributes.start_time DESC"], ["start_time ASC", "metrics.loss"], ["nope"], ["metrics.loss NOPE"]]:
        post("runs/search", {"experiment_ids": [experiment], "order_by": order})
    for most in [0, 1, 2, 50_001]:
        search(max_results=most)
    post("runs/restore", {"run_id": runs[3]})
    post("runs/restore", {"run_id": "none"})

    logged = post("logged-models", {"experiment_id": experiment, "name": "l", "model_type": "t", "params": [{"key": "p", "value": "1"}]})
    model = logged["model"]["info"]["model_id"]
    ask("PATCH", f"logged-models/{model}", {"model_id": model, "status": "LOGGED_MODEL_READY"})
    ask("PATCH", f"logged-models/{model}/tags", {"tags": [{"key": "k", "value": "v"}]})
    get(f"logged-models/{model}")
    get("logged-models/m-none")
    for text in ["", "name = 'l'", "params.p = '1'", "tags.k = 'v'", "name = 'none'"]:
        post("logged-models/search", {"experiment_ids": [experiment], "filter": text})
    ask("DELETE", f"logged-models/{model}/tags/k", None)
    ask("DELETE", f"logged-models/{model}", None)
    get(f"logged-models/{model}")


ALL = [("registry", registry), ("tracking", tracking)]
