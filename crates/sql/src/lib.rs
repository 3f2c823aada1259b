//! Tombolo's built-in SQL engine: tables in, one Parquet file out, nothing else touched.
//!
//! With one thread the output is a function of the query and the tables' bytes: the same rows in the same
//! order, byte for byte. With more threads only the rows are the same; their order is fixed by a total
//! ORDER BY alone, and sums of floats may differ in their last digits.

mod csv;
mod diff;
mod error;
mod inspect;
mod measure;
mod output;
mod scan;
mod tables;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use datafusion::execution::SessionStateBuilder;
use datafusion::execution::memory_pool::FairSpillPool;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::logical_expr::{DdlStatement, LogicalPlan};
use datafusion::prelude::{SessionConfig, SessionContext};
use datafusion::sql::parser::{DFParser, Statement};
use datafusion::sql::sqlparser::dialect::GenericDialect;

pub use diff::{TableDelta, TablesDiff, diff};
pub use error::{Position, SqlError};
pub use inspect::{EXAMPLE_ROWS_MAX, Example, Findings, Inspection, inspect};
pub use tables::stamps;

/// Longest query, in bytes.
pub const SQL_BYTES_MAX: usize = 1 << 20;
/// Statements that one query may have.
pub const STATEMENTS_MAX: usize = 100;

/// Functions whose value is not a function of the input.
const VOLATILE: [&str; 5] = ["now", "current_date", "current_time", "random", "uuid"];

#[derive(Debug, Clone)]
pub struct Query {
    /// Statements separated by `;`. The last is a SELECT or WITH, those before it are CREATE VIEW or CREATE TABLE AS.
    pub sql: String,
    /// A directory or file of Parquet or CSV (with a header) for each table. `hourly-delays` is also `hourly_delays`.
    pub tables: BTreeMap<String, PathBuf>,
    /// The directory that gets `part-0.parquet`.
    pub output: PathBuf,
    /// What sorts, joins and aggregates may hold together before they spill to the system's directory for temporary
    /// files; none: no limit. What CREATE TABLE AS holds is not counted.
    pub memory_bytes: Option<usize>,
    /// Partitions worked on at once; 1 makes the output deterministic.
    pub threads: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    pub rows: u64,
    /// Name and Arrow type of each column, in order.
    pub columns: Vec<(String, String)>,
    /// Size of the file written.
    pub bytes: u64,
}

/// Runs the query and writes its result. On an error nothing is left in the output directory.
pub async fn execute(query: &Query) -> Result<Outcome, SqlError> {
    let statements = parse(&query.sql)?;
    let context = session(query.threads, query.memory_bytes)?;
    for (name, path) in &query.tables {
        tables::register(&context, name, path).await?;
        let alias = name.replace('-', "_");
        if !query.tables.contains_key(&alias) {
            tables::register(&context, &alias, path).await?;
        }
    }
    let count = statements.len();
    for (i, statement) in statements.into_iter().enumerate() {
        let plan = plan(&context, query, statement, i + 1 == count).await?;
        let frame = context.execute_logical_plan(plan).await.map_err(SqlError::from_engine)?;
        if i + 1 == count {
            return output::write(frame, &query.output).await;
        }
    }
    Err(SqlError::Empty)
}

fn parse(sql: &str) -> Result<Vec<Statement>, SqlError> {
    if sql.len() > SQL_BYTES_MAX {
        return Err(SqlError::TooLong(sql.len()));
    }
    let statements = DFParser::parse_sql_with_dialect(sql, &GenericDialect {}).map_err(SqlError::from_engine)?;
    match statements.len() {
        0 => Err(SqlError::Empty),
        count if count > STATEMENTS_MAX => Err(SqlError::TooMany(count)),
        _ => Ok(statements.into()),
    }
}

fn session(threads: usize, memory_bytes: Option<usize>) -> Result<SessionContext, SqlError> {
    let mut config = SessionConfig::new().with_target_partitions(threads.max(1)).with_information_schema(false);
    config.options_mut().sql_parser.collect_spans = true;
    let mut runtime = RuntimeEnvBuilder::new();
    if let Some(bytes) = memory_bytes {
        runtime = runtime.with_memory_pool(Arc::new(FairSpillPool::new(bytes)));
    }
    let runtime = runtime.build_arc().map_err(SqlError::from_engine)?;
    let state =
        SessionStateBuilder::new().with_config(config).with_runtime_env(runtime).with_default_features().build();
    let context = SessionContext::new_with_state(state);
    for name in VOLATILE {
        context.deregister_udf(name);
    }
    Ok(context)
}

/// Plans one statement, and refuses whatever reads or writes beyond the tables.
async fn plan(
    context: &SessionContext,
    query: &Query,
    statement: Statement,
    last: bool,
) -> Result<LogicalPlan, SqlError> {
    let state = context.state();
    let text = statement.to_string();
    let references = state.resolve_table_references(&statement).map_err(SqlError::from_engine)?;
    let plan = match state.statement_to_plan(statement).await {
        Ok(plan) => plan,
        Err(error) => {
            for reference in references {
                let name = reference.table().to_owned();
                if !context.table_exist(reference).unwrap_or(false) {
                    let known = query.tables.keys().cloned().collect();
                    return Err(SqlError::UnknownTable { name, known });
                }
            }
            return Err(SqlError::from_engine(error));
        }
    };
    let refuse = |why| Err(SqlError::Refused { statement: text.chars().take(60).collect(), why });
    match &plan {
        LogicalPlan::Ddl(DdlStatement::CreateView(_) | DdlStatement::CreateMemoryTable(_)) if !last => Ok(plan),
        LogicalPlan::Ddl(_) | LogicalPlan::Dml(_) | LogicalPlan::Copy(_) | LogicalPlan::Statement(_) => refuse(
            "a query may only read its tables; before the last statement CREATE VIEW and CREATE TABLE AS may stand",
        ),
        LogicalPlan::Explain(_) | LogicalPlan::Analyze(_) | LogicalPlan::DescribeTable(_) => {
            refuse("it has no rows to write")
        }
        _ if !last => refuse("only the last statement may be a SELECT"),
        _ => Ok(plan),
    }
}
