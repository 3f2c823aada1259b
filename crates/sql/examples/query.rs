//! Runs a query from the command line: `query <file.sql> <output> <memory MiB> <table>=<path>...`

use std::time::Instant;

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [sql, output, memory, tables @ ..] = arguments.as_slice() else {
        eprintln!("usage: query <file.sql> <output> <memory MiB> <table>=<path>...");
        std::process::exit(2);
    };
    let tables = tables.iter().filter_map(|t| t.split_once('=')).map(|(n, p)| (n.to_owned(), p.into())).collect();
    let query = tombolo_sql::Query {
        sql: std::fs::read_to_string(sql).expect("the query's file is readable"),
        tables,
        output: output.into(),
        memory_bytes: Some(memory.parse::<usize>().expect("memory is a number of MiB") << 20),
        threads: 1,
    };
    let start = Instant::now();
    match tombolo_sql::execute(&query).await {
        Ok(outcome) => println!("{outcome:#?}\n{:.1} s", start.elapsed().as_secs_f64()),
        Err(error) => {
            eprintln!("{error}");
            std::process::exit(1);
        }
    }
}
