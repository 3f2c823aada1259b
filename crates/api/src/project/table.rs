//! Every key of a project file, once: the reader refuses what is not here, and the JSON Schema is made of it.

use tombolo_core::routes::WEIGHT_MAX;
use tombolo_core::spec::SNAPSHOT_SITES_MAX;

/// A mapping with known keys.
pub(super) struct Table {
    /// In groups, so that stages and services share most of theirs.
    pub groups: &'static [&'static [Key]],
    /// Exactly one of these must be given; none where there is no such choice.
    pub one_of: &'static [&'static str],
}

pub(super) struct Key {
    pub name: &'static str,
    pub shape: Shape,
    pub required: bool,
    pub about: &'static str,
    /// As JSON.
    pub example: &'static str,
}

/// What a value looks like.
pub(super) enum Shape {
    Text,
    /// Text, for which an unquoted number or `true` will do.
    Scalar,
    Name,
    Size,
    Duration,
    Cpus,
    Whole {
        min: i64,
        max: i64,
    },
    Number {
        min: f64,
        max: f64,
    },
    Choice(&'static [&'static str]),
    List(&'static Shape),
    /// Any keys, each with such a value.
    Map(&'static Shape),
    Object(&'static Table),
    OneOf(&'static [Shape]),
    /// `true` or `false`.
    Flag,
    Nothing,
}

impl Table {
    pub fn keys(&self) -> impl Iterator<Item = &'static Key> + use<> {
        self.groups.iter().copied().flatten()
    }

    pub fn has(&self, name: &str) -> bool {
        self.keys().any(|key| key.name == name)
    }
}

pub const CPUS_MAX: u64 = 100_000;
pub const MEMORY_BYTES_MAX: u64 = 1 << 50;
pub const DISK_BYTES_MAX: u64 = 1 << 60;
pub const GPUS_MAX: i64 = 10_000;
pub const RETRIES_MAX: i64 = 100;
pub const REPLICAS_MAX: i64 = 1_000;
pub const PRIORITY_MAX: i64 = 1_000;

const fn key(name: &'static str, shape: Shape, about: &'static str, example: &'static str) -> Key {
    Key { name, shape, required: false, about, example }
}

const fn required(name: &'static str, shape: Shape, about: &'static str, example: &'static str) -> Key {
    Key { name, shape, required: true, about, example }
}

const NAMES: Shape = Shape::OneOf(&[Shape::Name, Shape::List(&Shape::Name)]);
const NAMES_OR_ALIASES: Shape = Shape::OneOf(&[Shape::Name, Shape::List(&Shape::Name), Shape::Map(&Shape::Name)]);
const NAMES_OR_REASONS: Shape = Shape::OneOf(&[Shape::Name, Shape::List(&Shape::Name), Shape::Map(&Shape::Text)]);
const LABELS: Shape = Shape::Map(&Shape::Scalar);
const SELECTOR: Shape = Shape::OneOf(&[Shape::Name, LABELS, Shape::List(&Shape::OneOf(&[Shape::Name, LABELS]))]);
const UNBOUND: Shape = Shape::Number { min: f64::MIN, max: f64::MAX };

pub(super) static PROJECT: Table = Table {
    groups: &[&[
        required(
            "project",
            Shape::Name,
            "The project's name; its runs are called <name>-1, <name>-2, ...",
            r#""flights""#,
        ),
        key(
            "objective",
            Shape::OneOf(&[Shape::Choice(&["time", "cost"]), Shape::Number { min: 0.0, max: 1.0 }]),
            "What a plan minimises: time, cost, or the weight of time from 0 to 1 between them. Default: 0.5.",
            r#""cost""#,
        ),
        key(
            "data",
            Shape::Map(&Shape::OneOf(&[Shape::Text, Shape::Object(&DATA), Shape::Nothing])),
            "Datasets that exist before the run, by name: a path, or a mapping.",
            r#"{"raw": {"path": "data/flights.parquet", "keep_at": "onprem"}}"#,
        ),
        key(
            "stages",
            Shape::Map(&Shape::Object(&STAGE)),
            "Jobs by name. A stage runs when what makes its inputs has ended.",
            r#"{"train": {"run": "python train.py", "in": ["raw"], "out": ["model"]}}"#,
        ),
        key(
            "services",
            Shape::Map(&Shape::Object(&SERVICE)),
            "Servers by name: they start when their inputs are there, and stay.",
            r#"{"predict": {"run": "python serve.py", "in": ["model"], "ready": "/healthz"}}"#,
        ),
    ]],
    one_of: &[],
};

pub(super) static DATA: Table = Table {
    groups: &[&[
        key(
            "path",
            Shape::Text,
            "A file or directory, relative to the project file. Without it, the dataset must be known by its name.",
            r#""data/flights.parquet""#,
        ),
        key(
            "from",
            Shape::Text,
            "Where it is brought from at each run, as a stage of its own: s3://, gs://, az://, https://, postgres:// \
             (with `query`) or kafka://.",
            r#""postgres://shop@db.internal/shop""#,
        ),
        key(
            "query",
            Shape::Text,
            "What is read of a database: a path to a .sql file, or the query itself. Its rows come as Parquet.",
            r#""SELECT * FROM orders""#,
        ),
        key(
            "site",
            SELECTOR,
            "Where it is read, with `from`: a site next to it. Default: wherever that is allowed.",
            r#""onprem""#,
        ),
        key("timeout", Shape::Duration, "The longest that bringing it may take, with `from`.", r#""30m""#),
        key(
            "env",
            Shape::Map(&Shape::Scalar),
            "Settings for bringing it, by the names that the source's own tools know.",
            r#"{"AWS_REGION": "eu-central-1"}"#,
        ),
        key(
            "secrets",
            NAMES,
            "Credentials for bringing it: pgpassword as PGPASSWORD, aws-secret-access-key as AWS_SECRET_ACCESS_KEY.",
            r#"["pgpassword"]"#,
        ),
        key(
            "keep_at",
            SELECTOR,
            "The only sites where its bytes, and all that derives from them, may be: a name, labels, or a list \
             of these. Default: anywhere.",
            r#""onprem""#,
        ),
        key(
            "logs",
            Shape::Choice(&["readable", "stay"]),
            "Whether what stages print that read it, or what derives from it, may be read away from their site. \
             Default: readable.",
            r#""stay""#,
        ),
        key(
            "expect",
            Shape::Object(&EXPECT),
            "What it must be, checked when a version of it is made; what isn't is marked, and given to no stage.",
            r#"{"rows": {"min": 1000}, "columns": {"carrier": {"type": "text", "not_null": true}}}"#,
        ),
        key(
            "retain",
            Shape::OneOf(&[Shape::Text, Shape::List(&Shape::Text)]),
            "Which of its versions keep their names when a new one comes: `last <count>`, `hourly`, `daily`, `weekly`, \
             `monthly` or `yearly for <span>`, `all for <span>`, `tagged`; as one text with commas, or a list. The newest, and \
             what has a tag or is in use, stay in any case. Default: all.",
            r#""last 10, daily for 30 days""#,
        ),
    ]],
    one_of: &[],
};

pub(super) static EXPECT: Table = Table {
    groups: &[&[
        key("rows", Shape::Object(&ROWS), "How many rows it has.", r#"{"min": 1000}"#),
        key(
            "columns",
            Shape::Map(&Shape::OneOf(&[Shape::Choice(KINDS), Shape::Object(&COLUMN), Shape::Nothing])),
            "Columns that must be there, by name: a type, a mapping, or nothing more.",
            r#"{"carrier": "text", "delay": {"type": "number", "min": -120, "nulls": 0.05}}"#,
        ),
        key(
            "unique",
            Shape::OneOf(&[Shape::Text, Shape::List(&Shape::Text)]),
            "Columns whose values together occur only once.",
            r#"["carrier", "flight", "date"]"#,
        ),
        key(
            "on_failure",
            Shape::Choice(&["refuse", "use"]),
            "Whether stages get what isn't as expected. It is kept and marked in any case. Default: refuse.",
            r#""use""#,
        ),
    ]],
    one_of: &[],
};

pub(super) static ROWS: Table = Table {
    groups: &[&[
        key("min", Shape::Whole { min: 0, max: i64::MAX }, "The fewest.", "1000"),
        key("max", Shape::Whole { min: 0, max: i64::MAX }, "The most.", "5000000"),
    ]],
    one_of: &[],
};

pub(super) const PREFIX: &[&str] = &["strip", "keep"];
pub(super) const ACCESS: &[&str] = &["token", "token-passed", "public"];
const KINDS: &[&str] = &["integer", "number", "text", "boolean", "date", "timestamp"];

pub(super) static COLUMN: Table = Table {
    groups: &[&[
        key("type", Shape::Choice(KINDS), "What its values are; integers are numbers too.", r#""number""#),
        key("not_null", Shape::Flag, "Whether every row must have a value. Default: false.", "true"),
        key(
            "nulls",
            Shape::Number { min: 0.0, max: 1.0 },
            "The largest share of rows without a value. Default: any.",
            "0.05",
        ),
        key("min", Shape::Scalar, "The smallest value: a number, a text, or a date or timestamp as text.", "-120"),
        key("max", Shape::Scalar, "The largest value.", r#""2030-01-01""#),
        key("in", Shape::List(&Shape::Scalar), "The only values.", r#"["AA", "UA"]"#),
        key("unique", Shape::Flag, "Whether no value may occur twice. Default: false.", "true"),
        key("fresh", Shape::Duration, "How old the newest date or timestamp may be. Default: any age.", r#""7d""#),
    ]],
    one_of: &[],
};

pub(super) static STAGE: Table = Table {
    groups: &[
        &[
            key("run", Shape::Text, "A shell command, started in the project's directory.", r#""python train.py""#),
            key(
                "sql",
                Shape::Text,
                "A query for the built-in engine: a path to a .sql file, or the query itself. Inputs are tables by \
                 name; the result is the only output, as Parquet.",
                r#""features.sql""#,
            ),
            key("out", NAMES, "Outputs: what it writes under outputs/<name>.", r#"["model", "report"]"#),
            key(
                "release",
                NAMES_OR_REASONS,
                "Outputs that may leave where the inputs must stay; as a mapping, {output: why it may}. Each release is \
                 recorded, with its reason.",
                r#"{"model": "weights only"}"#,
            ),
            key(
                "gate",
                Shape::Object(&GATE),
                "A bound on a number that the stage writes as JSON; the run stops where it is missed.",
                r#"{"output": "report", "file": "metrics.json", "metric": "auc", "at_least": 0.65}"#,
            ),
            key(
                "expect",
                Shape::Map(&Shape::Object(&EXPECT)),
                "What outputs must be, by name. The stage fails where one isn't.",
                r#"{"features": {"rows": {"min": 1000}}}"#,
            ),
            key(
                "retries",
                Shape::Whole { min: 0, max: RETRIES_MAX },
                "How often it is tried again after a failure. Default: 0.",
                "2",
            ),
            key("timeout", Shape::Duration, "The longest that it may run. Default: no limit.", r#""30m""#),
        ],
        COMMON,
    ],
    one_of: &["run", "sql"],
};

pub(super) static SERVICE: Table = Table {
    groups: &[
        &[
            required("run", Shape::Text, "A shell command that serves on $PORT.", r#""python serve.py""#),
            key(
                "port",
                Shape::Whole { min: 1, max: 65_535 },
                "The port that it listens on. Default: Tombolo picks one and says so in $PORT.",
                "8080",
            ),
            key(
                "ready",
                Shape::OneOf(&[Shape::Text, Shape::Object(&READY)]),
                "The path that answers 2xx to a GET when the service is ready.",
                r#""/healthz""#,
            ),
            key("replicas", Shape::Whole { min: 1, max: REPLICAS_MAX }, "How many to run. Default: 1.", "2"),
            key(
                "single",
                Shape::Flag,
                "Whether no two may run at once, not even while it moves: then requests wait for a moment. Default: false.",
                "true",
            ),
            key(
                "access",
                Shape::Choice(ACCESS),
                "Who may use its endpoint: `token`, who has one of `tombolo endpoint token`; `token-passed`, the same, and \
                 the service sees the token; `public`, whoever reaches a gateway. Default: token.",
                r#""public""#,
            ),
            key(
                "prefix",
                Shape::Choice(PREFIX),
                "What the service sees of a path that begins with /<project>/<service>: `strip`, what is behind it; `keep`, \
                 all of it, for programs that are told the path that they are served under. Default: strip.",
                r#""keep""#,
            ),
            key(
                "drain",
                Shape::Duration,
                "How long requests, streams and web sockets may take to end when it has to, before SIGTERM. Default: 30s.",
                r#""2m""#,
            ),
            key(
                "weights",
                Shape::Map(&Shape::Whole { min: 0, max: WEIGHT_MAX as i64 }),
                "Shares of the requests, by site. Default: the nearest site gets all.",
                r#"{"onprem": 3, "cloud": 1}"#,
            ),
        ],
        COMMON,
    ],
    one_of: &[],
};

static COMMON: &[Key] = &[
    key(
        "in",
        NAMES_OR_ALIASES,
        "Inputs: datasets or outputs, readable under inputs/<name>; as a mapping, {name here: dataset or output}.",
        r#"["features"]"#,
    ),
    key(
        "python",
        Shape::OneOf(&[Shape::Text, Shape::List(&Shape::Text), Shape::Object(&PYTHON)]),
        "A Python with packages: a path to a requirements file, a list of requirements, or a mapping.",
        r#""requirements.txt""#,
    ),
    key("image", Shape::Text, "A container image, where the site has containers.", r#""python:3.11-slim""#),
    key("resources", Shape::Object(&RESOURCES), "What it needs.", r#"{"cpus": 2, "memory": "2GiB"}"#),
    key(
        "site",
        SELECTOR,
        "Where it may run: a site's name, labels, or a list of these. Default: wherever it fits.",
        r#"{"visibility": "public"}"#,
    ),
    key("env", Shape::Map(&Shape::Scalar), "Environment variables.", r#"{"LOG_LEVEL": "info"}"#),
    key(
        "secrets",
        NAMES,
        "Secrets that it gets as environment variables: db-password as $DB_PASSWORD.",
        r#"["db-password"]"#,
    ),
    key("grace", Shape::Duration, "From SIGTERM to SIGKILL when it is stopped or moved. Default: 30s.", r#""30s""#),
    key("duration", Shape::Duration, "An estimate of its run time, used until there is history.", r#""2m""#),
    key(
        "priority",
        Shape::Whole { min: -PRIORITY_MAX, max: PRIORITY_MAX },
        "Higher goes first where there is a queue. Default: 0.",
        "5",
    ),
    key(
        "failover_after",
        Shape::Duration,
        "Start it elsewhere when its site was not heard of for so long. Default: wait for the site.",
        r#""10m""#,
    ),
    key(
        "home",
        Shape::Name,
        "The site where it belongs: it is brought back there when that site is opened again after a drain.",
        r#""onprem""#,
    ),
    key(
        "placement",
        Shape::Object(&PLACEMENT),
        "Where it would rather be, and when it may be elsewhere. Default: it is all the same.",
        r#"{"prefer": "onprem", "burst": "cloud", "burst_after": "5m", "back": "when-free"}"#,
    ),
    key(
        "state",
        Shape::Object(&STATE),
        "Copies of $TOMBOLO_STATE that are taken while it runs and brought to where it would most likely go next. Default: none \
         but with a move.",
        r#"{"every": "5m"}"#,
    ),
];

pub(super) static PLACEMENT: Table = Table {
    groups: &[&[
        required("prefer", SELECTOR, "Where it is placed as long as it need not wait long there.", r#""onprem""#),
        key(
            "burst",
            SELECTOR,
            "Where it spills over to when it would wait longer. Default: wherever else it may be.",
            r#"{"visibility": "public"}"#,
        ),
        key("burst_after", Shape::Duration, "The longest that it waits before it spills over. Default: 5m.", r#""5m""#),
        key(
            "back",
            Shape::Choice(&["never", "when-free"]),
            "Whether it goes back when there is room and that saves what the move costs: services, and jobs that have \
             left state. Default: never.",
            r#""when-free""#,
        ),
        key(
            "back_at_most",
            Shape::Duration,
            "It stays at least so long where it is before it goes back, however often there is room. Default: 1h.",
            r#""1h""#,
        ),
    ]],
    one_of: &[],
};

pub(super) static PYTHON: Table = Table {
    groups: &[&[
        key(
            "requirements",
            Shape::OneOf(&[Shape::Text, Shape::List(&Shape::Text)]),
            "A path to a requirements file, or a list of requirements.",
            r#"["scikit-learn==1.5.2"]"#,
        ),
        key("version", Shape::Scalar, "Such as 3.11. Default: the site's own.", r#""3.11""#),
    ]],
    one_of: &[],
};

pub(super) static STATE: Table = Table {
    groups: &[&[
        required("every", Shape::Duration, "The time from one copy to the next, 5s at least.", r#""5m""#),
        key(
            "sites",
            Shape::Whole { min: 1, max: SNAPSHOT_SITES_MAX as i64 },
            "To how many other sites they are brought. Default: 1.",
            "2",
        ),
    ]],
    one_of: &[],
};

pub(super) static RESOURCES: Table = Table {
    groups: &[&[
        key("cpus", Shape::Cpus, "Cores; fractions are fine.", "2"),
        key("memory", Shape::Size, "Main memory.", r#""2GiB""#),
        key("disk", Shape::Size, "Scratch space.", r#""10GiB""#),
        key(
            "gpus",
            Shape::Map(&Shape::Whole { min: 1, max: GPUS_MAX }),
            "Accelerators: how many of each kind.",
            r#"{"a100": 1}"#,
        ),
    ]],
    one_of: &[],
};

pub(super) static GATE: Table = Table {
    groups: &[&[
        key("output", Shape::Name, "The output that holds the file. Default: the stage's only output.", r#""report""#),
        required("file", Shape::Text, "A JSON file within the output.", r#""metrics.json""#),
        required("metric", Shape::Scalar, "A key of the JSON object in the file.", r#""auc""#),
        key("at_least", UNBOUND, "The smallest value that passes.", "0.65"),
        key("at_most", UNBOUND, "The largest value that passes.", "0.1"),
    ]],
    one_of: &["at_least", "at_most"],
};

pub(super) static READY: Table = Table {
    groups: &[&[
        required("path", Shape::Text, "The path of the GET.", r#""/healthz""#),
        key("timeout", Shape::Duration, "How long it may take to become ready. Default: 2m.", r#""1m""#),
    ]],
    one_of: &[],
};
