//! Searches as SQL: what a filter and an order mean to the database, with every value bound and none in the text.

use sqlx::{QueryBuilder, Sqlite};

use crate::fault::Fault;
use crate::filter::{Clause, Field, Kind, Op, Order, Test, Value};

/// A column of `runs` that can be asked for.
struct Column {
    name: &'static str,
    sql: &'static str,
    numeric: bool,
    /// Whether it may be compared with a list.
    listed: bool,
}

const fn text(name: &'static str, sql: &'static str) -> Column {
    Column { name, sql, numeric: false, listed: false }
}

const fn number(name: &'static str, sql: &'static str) -> Column {
    Column { name, sql, numeric: true, listed: false }
}

const RUN_COLUMNS: &[Column] = &[
    Column { name: "run_id", sql: "r.id", numeric: false, listed: true },
    text("run_name", "r.name"),
    text("run name", "r.name"),
    text("Run name", "r.name"),
    text("Run Name", "r.name"),
    text("status", "r.status"),
    text("user_id", "r.user"),
    text("artifact_uri", "r.artifact_uri"),
    number("start_time", "r.started"),
    number("created", "r.started"),
    number("Created", "r.started"),
    number("end_time", "r.ended"),
];

const EXPERIMENT_COLUMNS: &[Column] = &[
    text("name", "e.name"),
    Column { name: "experiment_id", sql: "CAST(e.id AS TEXT)", numeric: false, listed: true },
    number("creation_time", "e.created"),
    number("last_update_time", "e.updated"),
];

const MODEL_COLUMNS: &[Column] = &[
    Column { name: "name", sql: "m.name", numeric: false, listed: true },
    Column { name: "model_id", sql: "m.id", numeric: false, listed: true },
    Column { name: "source_run_id", sql: "m.source_run", numeric: false, listed: true },
    Column { name: "model_type", sql: "m.model_type", numeric: false, listed: true },
    Column { name: "status", sql: "m.status", numeric: false, listed: true },
    text("artifact_uri", "m.artifact_uri"),
    number("creation_timestamp", "m.created"),
    number("creation_time", "m.created"),
    number("creation_timestamp_ms", "m.created"),
    number("last_updated_timestamp", "m.updated"),
    number("last_updated_timestamp_ms", "m.updated"),
];

const REGISTERED_COLUMNS: &[Column] = &[
    Column { name: "name", sql: "m.name", numeric: false, listed: true },
    number("timestamp", "m.updated"),
    number("last_updated_timestamp", "m.updated"),
];

const VERSION_COLUMNS: &[Column] = &[
    Column { name: "name", sql: "m.name", numeric: false, listed: true },
    Column { name: "run_id", sql: "v.run", numeric: false, listed: true },
    text("source_path", "v.source"),
    number("version_number", "v.version"),
    number("creation_timestamp", "v.created"),
    number("last_updated_timestamp", "v.updated"),
];

/// What is searched.
#[derive(Clone, Copy)]
pub enum Subject {
    Runs,
    Experiments,
    Models,
    /// Registered ones.
    Registered,
    /// Of registered models.
    Versions,
}

impl Subject {
    fn columns(self) -> &'static [Column] {
        match self {
            Subject::Runs => RUN_COLUMNS,
            Subject::Experiments => EXPERIMENT_COLUMNS,
            Subject::Models => MODEL_COLUMNS,
            Subject::Registered => REGISTERED_COLUMNS,
            Subject::Versions => VERSION_COLUMNS,
        }
    }

    fn column(self, key: &str) -> Result<&'static Column, Fault> {
        self.columns().iter().find(|column| column.name == key).ok_or_else(|| {
            let known: Vec<_> = self.columns().iter().map(|column| column.name).collect();
            Fault::invalid(format!("Invalid attribute key '{key}' specified. Valid keys are {}", known.join(", ")))
        })
    }

    /// The table of a kind's keys and values, and how its rows are found.
    fn table(self, kind: Kind) -> Result<&'static str, Fault> {
        match (self, kind) {
            (Subject::Runs, Kind::Metric) => Ok("latest_metrics x WHERE x.run = r.number"),
            (Subject::Runs, Kind::Param) => Ok("params x WHERE x.run = r.number"),
            (Subject::Runs, Kind::Tag) => Ok("tags x WHERE x.run = r.number"),
            (Subject::Experiments, Kind::Tag) => Ok("experiment_tags x WHERE x.experiment = e.id"),
            (Subject::Experiments, _) => {
                Err(Fault::invalid("Invalid entity type. Experiments have attributes and tags"))
            }
            (Subject::Models, Kind::Metric) => Ok("metrics x WHERE x.model = m.id AND x.model <> ''"),
            (Subject::Models, Kind::Param) => Ok("model_params x WHERE x.model = m.number"),
            (Subject::Models, Kind::Tag) => Ok("model_tags x WHERE x.model = m.number"),
            (Subject::Models, _) => {
                Err(Fault::invalid("Invalid entity type. Models have attributes, metrics, params and tags"))
            }
            (Subject::Registered, Kind::Tag) => Ok("registered_tags x WHERE x.model = m.number"),
            (Subject::Versions, Kind::Tag) => Ok("version_tags x WHERE x.version = v.number"),
            (Subject::Registered | Subject::Versions, _) => Err(Fault::invalid(
                "Invalid entity type. Registered models and their versions have attributes and tags",
            )),
            (Subject::Runs, Kind::Attribute | Kind::Dataset) => unreachable!("these have no table of keys"),
        }
    }
}

/// Appends `AND` with each clause.
pub fn push_clauses(sql: &mut QueryBuilder<Sqlite>, subject: Subject, clauses: &[Clause]) -> Result<(), Fault> {
    for clause in clauses {
        sql.push(" AND ");
        match (subject, clause.field.kind) {
            (_, Kind::Attribute) => push_attribute(sql, subject, clause)?,
            (Subject::Runs, Kind::Dataset) => push_dataset(sql, clause)?,
            (_, kind) => push_keyed(sql, subject.table(kind)?, clause)?,
        }
    }
    Ok(())
}

fn push_attribute(sql: &mut QueryBuilder<Sqlite>, subject: Subject, clause: &Clause) -> Result<(), Fault> {
    let column = subject.column(&clause.field.key)?;
    match &clause.test {
        Test::In { values, not } if column.listed => {
            push_list(sql, column.sql, values, *not);
            Ok(())
        }
        Test::Compare(op, value) => push_comparison(sql, column.sql, *op, value, column.numeric, column.name),
        Test::In { .. } => Err(Fault::invalid(format!("{} can't be compared with a list", column.name))),
        Test::Null { .. } => Err(Fault::invalid("IS NULL is for params and tags")),
    }
}

fn push_keyed(sql: &mut QueryBuilder<Sqlite>, table: &'static str, clause: &Clause) -> Result<(), Fault> {
    let Field { kind, key } = &clause.field;
    let metric = *kind == Kind::Metric;
    let absent = matches!(clause.test, Test::Null { not: false });
    sql.push(if absent { "NOT EXISTS (SELECT 1 FROM " } else { "EXISTS (SELECT 1 FROM " });
    sql.push(table).push(" AND x.key = ").push_bind(key.clone());
    match &clause.test {
        Test::Compare(op, value) => {
            sql.push(if metric { " AND x.nan = 0 AND " } else { " AND " });
            push_comparison(sql, "x.value", *op, value, metric, key)?;
        }
        Test::Null { .. } if !metric => {}
        Test::Null { .. } => return Err(Fault::invalid("IS NULL is for params and tags")),
        Test::In { .. } => return Err(Fault::invalid("lists are for attributes and datasets")),
    }
    sql.push(")");
    Ok(())
}

fn push_dataset(sql: &mut QueryBuilder<Sqlite>, clause: &Clause) -> Result<(), Fault> {
    const INPUT: &str =
        "EXISTS (SELECT 1 FROM dataset_inputs i JOIN datasets d ON d.id = i.dataset WHERE i.run = r.number AND ";
    const CONTEXT: &str = "EXISTS (SELECT 1 FROM dataset_inputs i, json_each(i.tags) t WHERE i.run = r.number \
        AND json_extract(t.value, '$.key') = 'mlflow.data.context' AND ";
    let (head, column) = match clause.field.key.as_str() {
        "name" => (INPUT, "d.name"),
        "digest" => (INPUT, "d.digest"),
        "context" => (CONTEXT, "json_extract(t.value, '$.value')"),
        key => {
            let why = format!("Invalid dataset key '{key}' specified. Valid keys are name, digest, context");
            return Err(Fault::invalid(why));
        }
    };
    sql.push(head);
    match &clause.test {
        Test::Compare(op, value) => push_comparison(sql, column, *op, value, false, &clause.field.key)?,
        Test::In { values, not } => push_list(sql, column, values, *not),
        Test::Null { .. } => return Err(Fault::invalid("IS NULL is for params and tags")),
    }
    sql.push(")");
    Ok(())
}

fn push_list(sql: &mut QueryBuilder<Sqlite>, column: &'static str, values: &[String], not: bool) {
    sql.push(column).push(if not { " NOT IN (" } else { " IN (" });
    let mut list = sql.separated(", ");
    for value in values {
        list.push_bind(value.clone());
    }
    sql.push(")");
}

fn push_comparison(
    sql: &mut QueryBuilder<Sqlite>,
    column: &'static str,
    op: Op,
    value: &Value,
    numeric: bool,
    name: &str,
) -> Result<(), Fault> {
    match (op, value) {
        (Op::Like | Op::Ilike, Value::Text(pattern)) if !numeric => push_like(sql, column, op, pattern),
        (Op::Like | Op::Ilike, _) => {
            return Err(Fault::invalid(format!("LIKE takes a text in quotes, and {name} must be one")));
        }
        (_, Value::Number(number)) if numeric => drop(sql.push(column).push(symbol(op)).push_bind(*number)),
        (_, Value::Int(int)) if numeric => drop(sql.push(column).push(symbol(op)).push_bind(*int)),
        (_, _) if numeric => return Err(Fault::invalid(format!("Expected a number to compare {name} with"))),
        (Op::Equal | Op::NotEqual, Value::Text(text)) => {
            sql.push(column).push(symbol(op)).push_bind(text.clone());
        }
        (Op::Equal | Op::NotEqual, _) => {
            return Err(Fault::invalid(format!("Expected a quoted string value to compare {name} with")));
        }
        (_, _) => {
            return Err(Fault::invalid(format!(
                "Invalid comparator for {name}, which is a text: it takes =, !=, LIKE, ILIKE"
            )));
        }
    }
    Ok(())
}

fn symbol(op: Op) -> &'static str {
    match op {
        Op::Equal => " = ",
        Op::NotEqual => " <> ",
        Op::Less => " < ",
        Op::LessEqual => " <= ",
        Op::Greater => " > ",
        Op::GreaterEqual => " >= ",
        Op::Like | Op::Ilike => unreachable!("these are written by push_like"),
    }
}

/// SQLite's LIKE knows no case; its GLOB does, in another notation.
fn push_like(sql: &mut QueryBuilder<Sqlite>, column: &'static str, op: Op, pattern: &str) {
    match op {
        Op::Like => sql.push(column).push(" GLOB ").push_bind(glob(pattern)),
        _ => sql.push("lower(").push(column).push(") GLOB ").push_bind(glob(&pattern.to_ascii_lowercase())),
    };
}

fn glob(like: &str) -> String {
    let mut glob = String::with_capacity(like.len());
    for char in like.chars() {
        match char {
            '%' => glob.push('*'),
            '_' => glob.push('?'),
            '*' | '?' | '[' => glob.extend(['[', char, ']']),
            char => glob.push(char),
        }
    }
    glob
}

/// Appends `ORDER BY`: the fields that were asked for, what has none of them last, then `natural`.
pub fn push_order(
    sql: &mut QueryBuilder<Sqlite>,
    subject: Subject,
    orders: &[Order],
    natural: &'static str,
) -> Result<(), Fault> {
    sql.push(" ORDER BY ");
    for Order { field, descending } in orders {
        let direction = if *descending { " DESC, " } else { " ASC, " };
        match field.kind {
            Kind::Attribute => {
                let column = subject.column(&field.key)?.sql;
                sql.push(column).push(" IS NULL, ").push(column).push(direction);
            }
            Kind::Dataset => return Err(Fault::invalid("runs can't be ordered by their datasets")),
            kind => {
                let table = subject.table(kind)?;
                let of = |sql: &mut QueryBuilder<Sqlite>, column: &'static str| {
                    sql.push("(SELECT ").push(column).push(" FROM ").push(table).push(" AND x.key = ");
                    sql.push_bind(field.key.clone());
                    // Of a model's points the newest counts; runs have theirs in a table of its own.
                    if matches!(subject, Subject::Models) && kind == Kind::Metric {
                        sql.push(" ORDER BY x.at DESC, x.step DESC, x.run LIMIT 1");
                    }
                    sql.push(")");
                };
                // Numbers, then what is none, then runs without.
                if kind == Kind::Metric {
                    sql.push("coalesce(");
                    of(sql, "x.nan");
                    sql.push(", 2), ");
                } else {
                    of(sql, "x.value");
                    sql.push(" IS NULL, ");
                }
                of(sql, "x.value");
                sql.push(direction);
            }
        }
    }
    sql.push(natural);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_keeps_its_meaning() {
        assert_eq!(glob("a%b_c"), "a*b?c");
        assert_eq!(glob("*?[x]"), "[*][?][[]x]");
    }
}
