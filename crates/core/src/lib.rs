//! What Tombolo decides, and nothing else: ids, specs, state machines, placement, residency.
//!
//! Nothing here reads a clock, draws a random number, looks at the environment or does IO; time and
//! chance come in as arguments. The types derive serde's traits so that the edges can store and send
//! them, but no format (JSON, YAML, SQL) is known here.

mod chain;
pub mod digest;
pub mod draining;
pub mod expect;
pub mod facts;
pub mod ids;
pub mod journal;
pub mod moving;
pub mod placement;
pub mod residency;
pub mod resources;
pub mod retention;
pub mod routes;
pub mod site;
pub mod sketch;
pub mod source;
pub mod spec;
pub mod speed;
pub mod sync;
pub mod tag;
pub mod time;
pub mod workload;
pub mod world;

pub use chain::chain;
pub use digest::Digest;
pub use ids::{Epoch, Name, RunId, SiteId, VersionId, WorkloadId};
pub use residency::{Residency, Selector};
pub use resources::Resources;
pub use routes::EndpointId;
pub use tag::Tag;
pub use time::{Millis, Timestamp};
