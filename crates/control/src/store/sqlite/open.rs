//! What the control plane's own database is, and how it is opened.

use std::path::Path;

use sqlx::{SqliteConnection, SqlitePool};
use tombolo_db::{OpenError, Schema};

use crate::store::StoreError;

const SCHEMA: Schema = Schema {
    // "Tomb".
    application_id: 0x546f_6d62,
    migrations: &[
        include_str!("../../../migrations/0001_first.sql"),
        include_str!("../../../migrations/0002_outputs.sql"),
        include_str!("../../../migrations/0003_sketches.sql"),
        include_str!("../../../migrations/0004_forgotten.sql"),
        include_str!("../../../migrations/0005_names.sql"),
        include_str!("../../../migrations/0006_endpoint_tokens.sql"),
    ],
};

pub(super) async fn open(path: &Path) -> Result<(SqliteConnection, SqlitePool), StoreError> {
    Ok(tombolo_db::open(path, &SCHEMA).await?)
}

impl From<OpenError> for StoreError {
    fn from(error: OpenError) -> StoreError {
        match error {
            OpenError::Unusable { path, why } => StoreError::Unusable { path, why },
            OpenError::Newer { path, found, known } => StoreError::Newer { path, found, known },
        }
    }
}
