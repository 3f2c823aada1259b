//! Datasets that are brought from elsewhere at each run: from a real database and a real broker.

use serde_json::Value;

use super::servers::kafka::Kafka;
use super::servers::postgres::{PASSWORD, Postgres};
use super::world::{World, states, tree, workload};

fn run(world: &World, dir: &str) -> Value {
    let ran = world.cli(&["run", dir, "--output", "json"]);
    assert_eq!(ran.code, 0, "{ran}");
    serde_json::from_str(&ran.out).unwrap()
}

fn log_of(world: &World, view: &Value, stage: &str) -> String {
    world.ok(&["logs", &format!("{}/{stage}", view["id"].as_str().unwrap())])
}

#[test]
fn a_query_is_a_dataset_that_stays_where_its_database_is() {
    let database = Postgres::start();
    database.run("CREATE TABLE orders (id int8, note text); INSERT INTO orders VALUES (1, 'a'), (2, 'b');");
    let world = World::with_sites(&[("cloud", &[]), ("onprem", &[])]);
    world.cli_with(&["secret", "set", "pgpassword"], PASSWORD);
    let yaml = format!(
        "
project: shop
data:
  orders: {{ from: '{}', query: SELECT * FROM orders ORDER BY id, secrets: [pgpassword], keep_at: onprem }}
stages:
  count: {{ sql: SELECT count(*) AS n FROM orders, in: [orders], out: [counted] }}
",
        database.url()
    );
    let dir = world.project("shop", &yaml, &[]);
    let first = run(&world, &dir);
    for stage in ["orders", "count"] {
        let site = &workload(&first, stage)["attempts"][0]["site"];
        assert_eq!(site, "onprem", "{stage} may run nowhere else: {first:#}");
    }
    assert!(log_of(&world, &first, "orders").contains("brought 2 rows"), "{}", log_of(&world, &first, "orders"));

    // Unchanged at its source: the same version, and what is behind it is not run again.
    let second = run(&world, &dir);
    assert_eq!(states(&second), "count cached, orders succeeded");
    database.run("INSERT INTO orders VALUES (3, 'c');");
    let third = run(&world, &dir);
    assert_eq!(states(&third), "count succeeded, orders succeeded");
    assert!(log_of(&world, &third, "orders").contains("brought 3 rows"));

    // The password is in nothing that was written down.
    for (path, bytes) in tree(&world.path("")) {
        assert!(!bytes.windows(PASSWORD.len()).any(|window| window == PASSWORD.as_bytes()), "{path}");
    }
}

#[test]
fn a_wrong_password_ends_red_and_says_what_to_do() {
    let database = Postgres::start();
    let world = World::with_sites(&[("here", &[])]);
    world.cli_with(&["secret", "set", "pgpassword"], "wrong");
    let yaml = format!(
        "
project: shop
data: {{ orders: {{ from: '{}', query: SELECT 1 AS a, secrets: [pgpassword] }} }}
stages: {{ count: {{ run: 'true', in: [orders] }} }}
",
        database.url()
    );
    let dir = world.project("shop", &yaml, &[]);
    let ran = world.cli(&["run", &dir]);
    assert_eq!(ran.code, 1, "{ran}");
    assert!(ran.out.contains("pgpassword") || ran.err.contains("pgpassword"), "{ran}");
}

#[test]
fn a_topic_is_read_on_where_the_last_run_ended() {
    let broker = Kafka::start();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let produce = |values: std::ops::Range<u32>| {
        runtime.block_on(async {
            use rskafka::client::partition::{Compression, UnknownTopicHandling};
            let client = rskafka::client::ClientBuilder::new(vec![broker.address()]).build().await.unwrap();
            if values.start == 0 {
                let controller = client.controller_client().unwrap();
                controller.create_topic("clicks", 1, 1, 10_000).await.unwrap();
            }
            let target = client.partition_client("clicks", 0, UnknownTopicHandling::Retry).await.unwrap();
            let record = |value: u32| rskafka::record::Record {
                key: None,
                value: Some(value.to_string().into_bytes()),
                headers: Default::default(),
                timestamp: rskafka::chrono::DateTime::UNIX_EPOCH,
            };
            target.produce(values.map(record).collect(), Compression::Zstd).await.unwrap();
        });
    };
    let world = World::with_sites(&[("here", &[])]);
    let yaml = format!(
        "
project: web
data: {{ clicks: {{ from: 'kafka://{}/clicks' }} }}
stages:
  check:
    sql: SELECT count(*) AS n, count(DISTINCT \"offset\") AS different FROM clicks
    in: [clicks]
    out: [checked]
",
        broker.address()
    );
    let dir = world.project("web", &yaml, &[]);
    produce(0..100);
    let first = run(&world, &dir);
    assert!(log_of(&world, &first, "clicks").contains("brought 100 rows, 1 file"));
    produce(100..150);
    let second = run(&world, &dir);
    assert!(log_of(&world, &second, "clicks").contains("brought 150 rows, 2 files"));
    // Nothing new: the version of before, so that nothing behind it runs.
    let third = run(&world, &dir);
    assert_eq!(states(&third), "check cached, clicks succeeded");
    let again = world.cli(&["run", &dir, "--force", "--output", "json"]);
    let again: Value = serde_json::from_str(&again.out).unwrap();
    assert!(log_of(&world, &again, "clicks").contains("brought 150 rows, 1 file"), "from the beginning");
}
