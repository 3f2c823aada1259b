//! Tables on disk: one Parquet file, written group by group in bounded memory.

use std::fs::File;
use std::path::{Path, PathBuf};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;

use crate::error::{ConnectError, at};

/// Encoded bytes of one row group before it is written.
const GROUP_BYTES_MAX: usize = 64 << 20;

pub(crate) struct Part {
    path: PathBuf,
    writer: ArrowWriter<File>,
    rows: u64,
}

impl Part {
    pub fn create(path: &Path, schema: SchemaRef) -> Result<Part, ConnectError> {
        let file = File::create(path).map_err(at(path))?;
        let level = ZstdLevel::try_new(1).expect("1 is a level of zstd");
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(level))
            // Not cut by content: see the output of `tombolo-sql`.
            .build();
        let writer = ArrowWriter::try_new(file, schema, Some(properties)).map_err(|error| failed(path, &error))?;
        Ok(Part { path: path.to_owned(), writer, rows: 0 })
    }

    pub fn write(&mut self, batch: &RecordBatch) -> Result<(), ConnectError> {
        self.rows += batch.num_rows() as u64;
        self.writer.write(batch).map_err(|error| failed(&self.path, &error))?;
        if self.writer.in_progress_size() >= GROUP_BYTES_MAX {
            self.writer.flush().map_err(|error| failed(&self.path, &error))?;
        }
        Ok(())
    }

    /// Rows and bytes of the finished file.
    pub fn finish(self) -> Result<(u64, u64), ConnectError> {
        let Part { path, writer, rows } = self;
        let file = writer.into_inner().map_err(|error| failed(&path, &error))?;
        // What is written down of it afterwards says that it is whole.
        file.sync_all().map_err(at(&path))?;
        let bytes = file.metadata().map_err(at(&path))?.len();
        Ok((rows, bytes))
    }
}

fn failed(path: &Path, error: &parquet::errors::ParquetError) -> ConnectError {
    ConnectError::Parquet { path: path.to_owned(), why: error.to_string() }
}
