use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use datafusion::arrow::datatypes::Schema;
use datafusion::common::TableReference;
use datafusion::dataframe::DataFrame;
use datafusion::prelude::{CsvReadOptions, ParquetReadOptions, SessionContext};

use tombolo_core::facts::Format;

use crate::SqlError;

/// Files that one table may have.
const FILES_MAX: usize = 100_000;
/// Directories within directories.
const DEPTH_MAX: usize = 16;

/// The files of a table, sorted by their paths; all are of one kind.
#[derive(Debug)]
pub(crate) struct Files {
    pub format: Format,
    pub paths: Vec<PathBuf>,
}

/// The table's files under `path`. They must be of one kind, told by their names' endings.
pub(crate) fn find(path: &Path) -> Result<Files, SqlError> {
    let mut files = Vec::new();
    collect(path, 0, &mut files)?;
    files.sort();
    let kind = |file: &PathBuf| file.extension().and_then(|e| e.to_str()).map(str::to_ascii_lowercase);
    let first = files.first().and_then(kind);
    for file in &files {
        match (kind(file).as_deref(), first.as_deref()) {
            (Some("parquet"), Some("parquet")) => check_magic(file)?,
            (Some("csv"), Some("csv")) => {}
            (Some("parquet" | "csv"), Some("parquet" | "csv")) => return bad(file, "Parquet and CSV in one table"),
            _ => return bad(file, "neither Parquet nor CSV (told by .parquet or .csv)"),
        }
    }
    match first.as_deref() {
        None => bad(path, "no Parquet or CSV file in it"),
        Some("parquet") => Ok(Files { format: Format::Parquet, paths: files }),
        Some(_) => Ok(Files { format: Format::Csv, paths: files }),
    }
}

impl Files {
    /// The files as one table. Types of CSV are those of `schema`, or else told by its first rows.
    pub async fn frame(&self, context: &SessionContext, schema: Option<&Schema>) -> Result<DataFrame, SqlError> {
        let mut urls = Vec::new();
        for file in &self.paths {
            match std::path::absolute(file).ok().and_then(|path| path.to_str().map(str::to_owned)) {
                Some(url) => urls.push(url),
                None => return bad(file, "the path is not UTF-8"),
            }
        }
        let extension = self.paths.first().and_then(|file| file.extension()?.to_str()).unwrap_or_default();
        let frame = match (self.format, schema) {
            (Format::Parquet, _) => {
                context.read_parquet(urls, ParquetReadOptions::default().file_extension(extension)).await
            }
            (Format::Csv, None) => context.read_csv(urls, CsvReadOptions::new().file_extension(extension)).await,
            (Format::Csv, Some(schema)) => {
                // A line break within quotes is a part of the value.
                let options = CsvReadOptions::new().file_extension(extension).schema(schema).newlines_in_values(true);
                context.read_csv(urls, options).await
            }
        };
        frame.map_err(|error| SqlError::BadTable {
            path: self.paths.first().cloned().unwrap_or_default(),
            message: error.strip_backtrace(),
        })
    }
}

/// Makes the files under `path` a table of the context.
pub(crate) async fn register(context: &SessionContext, name: &str, path: &Path) -> Result<(), SqlError> {
    let frame = find(path)?.frame(context, None).await?;
    let registered = context.register_table(TableReference::bare(name), frame.into_view());
    registered.map(drop).map_err(|error| SqlError::BadTable { path: path.to_owned(), message: error.strip_backtrace() })
}

/// The length and time of change of each file of a table, to tell later whether it is still the same; none of what is
/// no table.
pub fn stamps(path: &Path) -> Vec<(PathBuf, u64, Option<SystemTime>)> {
    let stamp = |file: PathBuf| {
        let about = fs::metadata(&file).ok();
        let bytes = about.as_ref().map_or(0, fs::Metadata::len);
        (file, bytes, about.and_then(|about| about.modified().ok()))
    };
    find(path).map(|files| files.paths.into_iter().map(stamp).collect()).unwrap_or_default()
}

fn collect(path: &Path, depth: usize, files: &mut Vec<PathBuf>) -> Result<(), SqlError> {
    let fault = |e: std::io::Error| SqlError::BadTable { path: path.to_owned(), message: e.to_string() };
    if !fs::metadata(path).map_err(fault)?.is_dir() {
        files.push(path.to_owned());
        return if files.len() > FILES_MAX { bad(path, "too many files in one table") } else { Ok(()) };
    }
    if depth == DEPTH_MAX {
        return bad(path, "directories too deep");
    }
    for entry in fs::read_dir(path).map_err(fault)? {
        let entry = entry.map_err(fault)?;
        if !entry.file_name().as_encoded_bytes().starts_with(b".") {
            collect(&entry.path(), depth + 1, files)?;
        }
    }
    Ok(())
}

/// The engine's own message does not name the file among many.
fn check_magic(file: &Path) -> Result<(), SqlError> {
    let mut magic = [0; 4];
    match fs::File::open(file).and_then(|mut f| f.read_exact(&mut magic)) {
        Ok(()) if &magic == b"PAR1" => Ok(()),
        _ => bad(file, "not a Parquet file"),
    }
}

fn bad<T>(path: &Path, message: &str) -> Result<T, SqlError> {
    Err(SqlError::BadTable { path: path.to_owned(), message: message.to_owned() })
}
