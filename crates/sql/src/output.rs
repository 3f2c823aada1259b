use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::arrow::error::ArrowError;
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::parquet::arrow::ArrowWriter;
use datafusion::parquet::basic::{Compression, ZstdLevel};
use datafusion::parquet::file::properties::WriterProperties;
use datafusion::prelude::DataFrame;
use futures_util::StreamExt;
use tokio::sync::mpsc;

use crate::{Outcome, SqlError};

/// Batches between the query and the writer.
const BATCHES_WAITING_MAX: usize = 2;
const ROW_GROUP_ROWS: usize = 128 * 1024;

/// Streams the result into `part-0.parquet`; takes the file away again on an error.
pub(crate) async fn write(frame: DataFrame, directory: &Path) -> Result<Outcome, SqlError> {
    let path = directory.join("part-0.parquet");
    let written = stream(frame, &path).await;
    if written.is_err() {
        // What could not be created can't be removed either; the first error is the one to tell.
        let _ = fs::remove_file(&path);
    }
    written
}

async fn stream(frame: DataFrame, path: &Path) -> Result<Outcome, SqlError> {
    let mut batches = frame.execute_stream().await.map_err(SqlError::from_engine)?;
    let schema = plain(&batches.schema());
    let columns = schema.fields().iter().map(|f| (f.name().clone(), f.data_type().to_string())).collect();
    let (sender, receiver) = mpsc::channel(BATCHES_WAITING_MAX);
    let target = path.to_owned();
    let writer = tokio::task::spawn_blocking(move || encode(&target, schema, receiver));
    let mut failed = None;
    while let Some(batch) = batches.next().await {
        match batch {
            // The writer is gone only where it failed, and says why below.
            Ok(batch) => {
                if sender.send(batch).await.is_err() {
                    break;
                }
            }
            Err(error) => {
                failed = Some(SqlError::from_engine(error));
                break;
            }
        }
    }
    drop(sender);
    let written = writer.await.unwrap_or_else(|e| Err(e.to_string()));
    if let Some(error) = failed {
        return Err(error);
    }
    let (rows, bytes) = written.map_err(|message| SqlError::Write { path: path.to_owned(), message })?;
    Ok(Outcome { rows, columns, bytes })
}

/// Writes what comes; the rows and the file's size in bytes.
fn encode(path: &PathBuf, schema: SchemaRef, mut batches: mpsc::Receiver<RecordBatch>) -> Result<(u64, u64), String> {
    let file = fs::File::create(path).map_err(|e| e.to_string())?;
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
        // Not cut by content, though versions would share more: parquet 59 then writes a page without values where a cut
        // falls on the start of a row group, and pyarrow takes that for the end of the column.
        .build();
    let writer_schema = schema.clone();
    let mut writer = ArrowWriter::try_new(file, schema, Some(properties)).map_err(|e| e.to_string())?;
    let mut rows = 0;
    while let Some(batch) = batches.blocking_recv() {
        rows += batch.num_rows() as u64;
        let batch = as_plain(&batch, writer_schema.clone()).map_err(|e| e.to_string())?;
        writer.write(&batch).map_err(|e| e.to_string())?;
    }
    let file = writer.into_inner().map_err(|e| e.to_string())?;
    file.sync_all().map_err(|e| e.to_string())?;
    Ok((rows, file.metadata().map_err(|e| e.to_string())?.len()))
}

/// The schema without the engine's own way to hold texts: Parquet keeps Arrow's schema beside its own, and Python's readers
/// can't filter what is marked as a view.
fn plain(schema: &Schema) -> SchemaRef {
    let fields = schema.fields().iter().map(|field| match field.data_type() {
        DataType::Utf8View => Arc::new(Field::clone(field).with_data_type(DataType::Utf8)),
        DataType::BinaryView => Arc::new(Field::clone(field).with_data_type(DataType::Binary)),
        _ => Arc::clone(field),
    });
    Arc::new(Schema::new_with_metadata(fields.collect::<Vec<_>>(), schema.metadata().clone()))
}

fn as_plain(batch: &RecordBatch, schema: SchemaRef) -> Result<RecordBatch, ArrowError> {
    let columns = batch.columns().iter().zip(schema.fields()).map(|(column, field)| cast(column, field.data_type()));
    let columns = columns.collect::<Result<Vec<_>, _>>()?;
    RecordBatch::try_new(schema, columns)
}
