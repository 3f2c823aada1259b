//! Searches of registered models and of their versions.

use serde::{Deserialize, Serialize};
use sqlx::{QueryBuilder, Sqlite};

use super::wire::{MODEL_COLUMNS, Model, VERSION_COLUMNS, Version, With};
use crate::fault::Fault;
use crate::filter::{self, Clause, Kind, Op, Test, Value};
use crate::search::{self, Subject};
use crate::wire::Int;
use crate::{Access, Tracking, ids, weight};

const MODELS_PAGE: i64 = 100;
const MODELS_PAGE_MAX: i64 = 1_000;
const VERSIONS_PAGE: i64 = 10_000;
const VERSIONS_PAGE_MAX: i64 = 200_000;
/// By which a model is a prompt: those are found only by who asks for them.
const PROMPT: &str = "mlflow.prompt.is_prompt";

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Search {
    filter: Option<String>,
    max_results: Option<Int>,
    order_by: Option<Vec<String>>,
    page_token: Option<String>,
}

#[derive(Debug, Serialize)]
pub struct Models {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    registered_models: Vec<Model>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_page_token: Option<String>,
}

#[derive(Debug, Serialize)]
pub struct Versions {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    model_versions: Vec<Version>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_page_token: Option<String>,
}

/// A search with its page.
struct Asked {
    clauses: Vec<Clause>,
    orders: Vec<filter::Order>,
    limit: i64,
    offset: i64,
}

impl Search {
    fn read(self, page: i64, page_max: i64) -> Result<Asked, Fault> {
        let limit = self.max_results.map_or(page, |max| max.0);
        if !(1..=page_max).contains(&limit) {
            return Err(Fault::invalid(format!(
                "Invalid value for max_results. It must be a positive integer of at most {page_max}, but got {limit}"
            )));
        }
        Ok(Asked {
            clauses: filter::parse(self.filter.as_deref().unwrap_or_default())?,
            orders: filter::parse_order(&self.order_by.unwrap_or_default())?,
            limit,
            offset: ids::page_offset(self.page_token.as_deref())?,
        })
    }
}

/// Takes the word on prompts out of a filter. Returns whether it asks for them.
fn for_prompts(clauses: &mut Vec<Clause>) -> bool {
    let is_prompt = |clause: &Clause| clause.field.kind == Kind::Tag && clause.field.key == PROMPT;
    let asks = clauses.iter().find(|clause| is_prompt(clause)).is_some_and(|clause| match &clause.test {
        Test::Compare(Op::Equal, Value::Text(text)) => text.eq_ignore_ascii_case("true"),
        Test::Compare(Op::NotEqual, Value::Text(text)) => text.eq_ignore_ascii_case("false"),
        _ => false,
    });
    clauses.retain(|clause| !is_prompt(clause));
    asks
}

fn push_prompts(sql: &mut QueryBuilder<Sqlite>, asks: bool) {
    sql.push(if asks { " WHERE EXISTS" } else { " WHERE NOT EXISTS" });
    sql.push(" (SELECT 1 FROM registered_tags p WHERE p.model = m.number AND p.value = 'true' AND p.key = ");
    sql.push_bind(PROMPT).push(")");
}

impl Tracking {
    pub(crate) async fn search_registered(self, _: Access, asked: Search) -> Result<Models, Fault> {
        let Asked { mut clauses, orders, limit, offset } = asked.read(MODELS_PAGE, MODELS_PAGE_MAX)?;
        let mut sql = QueryBuilder::new("SELECT ");
        sql.push(MODEL_COLUMNS).push(" FROM registered m");
        push_prompts(&mut sql, for_prompts(&mut clauses));
        search::push_clauses(&mut sql, Subject::Registered, &clauses)?;
        search::push_order(&mut sql, Subject::Registered, &orders, "m.name")?;
        sql.push(" LIMIT ").push_bind(limit + 1).push(" OFFSET ").push_bind(offset);
        let mut rows = sql.build().fetch_all(self.db.readers()).await?;
        let found = rows.len();
        rows.truncate(limit as usize);
        rows.truncate(self.fitting(&rows, weight::REGISTERED).await?);
        let models = self.whole_registered(&rows).await?;
        let next_page_token = (found > models.len()).then(|| ids::page_token(offset + models.len() as i64));
        Ok(Models { registered_models: models, next_page_token })
    }

    pub(crate) async fn search_versions(self, _: Access, asked: Search) -> Result<Versions, Fault> {
        let Asked { mut clauses, orders, limit, offset } = asked.read(VERSIONS_PAGE, VERSIONS_PAGE_MAX)?;
        let mut sql = QueryBuilder::new("SELECT ");
        sql.push(VERSION_COLUMNS).push(" FROM versions v JOIN registered m ON m.number = v.model");
        push_prompts(&mut sql, for_prompts(&mut clauses));
        search::push_clauses(&mut sql, Subject::Versions, &clauses)?;
        let natural =
            if orders.is_empty() { "v.updated DESC, m.name, v.version DESC" } else { "m.name, v.version DESC" };
        search::push_order(&mut sql, Subject::Versions, &orders, natural)?;
        sql.push(" LIMIT ").push_bind(limit + 1).push(" OFFSET ").push_bind(offset);
        let mut rows = sql.build().fetch_all(self.db.readers()).await?;
        let found = rows.len();
        rows.truncate(limit as usize);
        rows.truncate(self.fitting(&rows, weight::VERSIONS).await?);
        let versions = self.whole_versions(&rows, With::Tags).await?;
        let next_page_token = (found > versions.len()).then(|| ids::page_token(offset + versions.len() as i64));
        Ok(Versions { model_versions: versions, next_page_token })
    }
}
