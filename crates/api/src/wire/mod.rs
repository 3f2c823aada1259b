//! Version 1 of the HTTP API's bodies. Names are unique across the API, as OpenAPI wants them.

mod access;
mod data;
mod drains;
mod endpoints;
mod moves;
mod runs;
mod sites;

pub use access::*;
pub use data::*;
pub use drains::*;
pub use endpoints::*;
pub use moves::*;
pub use runs::*;
pub use sites::*;

use serde::{Deserialize, Serialize};

/// Items of one page at most.
pub const PAGE_MAX: u32 = 500;
pub const PAGE_DEFAULT: u32 = 100;

/// One page of a listing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Page<T> {
    pub items: Vec<T>,
    /// Give it as `after` to get the next page; absent on the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, utoipa::IntoParams, utoipa::ToSchema)]
#[serde(default)]
#[into_params(parameter_in = Query)]
pub struct PageQuery {
    /// Where the page before ended.
    pub after: Option<String>,
    /// Items, at most 500.
    pub limit: Option<u32>,
}
