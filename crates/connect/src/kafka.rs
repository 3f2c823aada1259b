//! A topic's records into Parquet, each once: an import goes on at the offset at which the last one ended.
//!
//! The state directory holds the parts that were read so far and the offsets at which they end. Both become versions in
//! the same act as the output, so that an import that fails leaves neither, and the next one reads the same records
//! again: the output holds every record of the topic exactly once, whatever failed in between.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{BinaryBuilder, Int32Builder, Int64Builder, RecordBatch, TimestampMillisecondBuilder};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use rskafka::BackoffConfig;
use rskafka::client::ClientBuilder;
use rskafka::client::error::{Error, ProtocolError};
use rskafka::client::partition::{OffsetAt, PartitionClient, UnknownTopicHandling};
use rskafka::record::RecordAndOffset;
use rskafka::topic::Topic;
use serde::{Deserialize, Serialize};

use crate::error::at;
use crate::parts::Part;
use crate::{Brought, ConnectError, Import};

const HINT: &str = "check the brokers' addresses, as they are seen from the site";
/// Asked of a broker at once; a single larger record still comes whole.
const FETCH_BYTES: Range<i32> = 1..8 << 20;
const FETCH_WAIT_MS: i32 = 500;
/// Largest answer that is read from a broker.
const MESSAGE_BYTES_MAX: usize = 64 << 20;
/// How long a broker that can't be reached is tried again.
const RETRY_FOR: std::time::Duration = std::time::Duration::from_secs(30);
/// Topics that an error names.
const TOPICS_SHOWN: usize = 10;
/// Answers without a record in a row, after which what is left before the end is no records but markers of transactions.
const EMPTY_MAX: u32 = 5;
const OFFSETS: &str = "offsets.json";

/// Where each partition is to be read on.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Offsets {
    topic: String,
    next: BTreeMap<i32, i64>,
}

pub(crate) async fn bring(brokers: &[String], topic: &str, import: &Import) -> Result<Brought, ConnectError> {
    let backoff = BackoffConfig { deadline: Some(RETRY_FOR), ..BackoffConfig::default() };
    let builder = ClientBuilder::new(brokers.to_vec()).max_message_size(MESSAGE_BYTES_MAX).backoff_config(backoff);
    let failed = |error: Error| ConnectError::Unreachable {
        address: format!("kafka://{}/{topic}", brokers.join(",")),
        why: error.to_string(),
        hint: HINT,
    };
    let client = builder.build().await.map_err(failed)?;
    let topics = client.list_topics().await.map_err(failed)?;
    let partitions = partitions(&topics, topic)?;
    let mut offsets = read_offsets(&import.state, topic)?;
    clear_leftovers(&import.state, &offsets)?;
    let mut brought = Brought { rows: Some(0), ..Brought::default() };
    for partition in partitions {
        let source = client.partition_client(topic, partition, UnknownTopicHandling::Error).await.map_err(failed)?;
        let end = source.get_offset(OffsetAt::Latest).await.map_err(failed)?;
        let earliest = source.get_offset(OffsetAt::Earliest).await.map_err(failed)?;
        let mut next = offsets.next.get(&partition).copied().unwrap_or(earliest);
        if next < earliest {
            brought.warnings.push(format!(
                "partition {partition}: records {next} to {} were deleted by the broker before they were read",
                earliest - 1
            ));
            next = earliest;
        }
        if next > end {
            return Err(ConnectError::State {
                path: import.state.join(OFFSETS),
                why: format!(
                    "partition {partition} was read up to {next}, but the topic ends at {end}: it was made anew"
                ),
            });
        }
        let next = read(&source, partition, next..end, import, &failed).await?;
        offsets.next.insert(partition, next);
    }
    write_offsets(&import.state, &offsets)?;
    lay_out(&import.state, &import.output, &mut brought)?;
    Ok(brought)
}

fn partitions(topics: &[Topic], topic: &str) -> Result<Vec<i32>, ConnectError> {
    if let Some(found) = topics.iter().find(|known| known.name == topic) {
        return Ok(found.partitions.iter().copied().collect());
    }
    let mut known: Vec<_> = topics.iter().map(|topic| topic.name.as_str()).collect();
    known.sort_unstable();
    known.truncate(TOPICS_SHOWN);
    let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
    Err(ConnectError::NoTopic { topic: topic.to_owned(), known })
}

/// Reads a range of one partition into a part of its own. Answers where to go on.
async fn read(
    source: &PartitionClient,
    partition: i32,
    range: Range<i64>,
    import: &Import,
    failed: &impl Fn(Error) -> ConnectError,
) -> Result<i64, ConnectError> {
    if range.is_empty() {
        return Ok(range.start);
    }
    let path = import.state.join(part_name(partition, range.start));
    let mut part = Part::create(&path, schema())?;
    let mut next = range.start;
    let mut empty = 0;
    while next < range.end && empty < EMPTY_MAX {
        let (records, _) = match source.fetch_records(next, FETCH_BYTES, FETCH_WAIT_MS).await {
            Ok(fetched) => fetched,
            // Deleted by the broker while it was read.
            Err(Error::ServerError { protocol_error: ProtocolError::OffsetOutOfRange, .. }) => {
                next = source.get_offset(OffsetAt::Earliest).await.map_err(failed)?;
                continue;
            }
            Err(error) => return Err(failed(error)),
        };
        let Some(last) = records.last().map(|last| last.offset) else {
            empty += 1;
            continue;
        };
        empty = 0;
        let records: Vec<_> = records.into_iter().filter(|record| range.contains(&record.offset)).collect();
        if !records.is_empty() {
            part.write(&batch(partition, &records)?)?;
        }
        next = last + 1;
    }
    part.finish()?;
    Ok(next.max(range.end))
}

/// A part is named by where it begins.
fn part_name(partition: i32, from: i64) -> String {
    format!("part-{partition:05}-{from:020}.parquet")
}

fn part_of(name: &str) -> Option<(i32, i64)> {
    let (partition, from) = name.strip_prefix("part-")?.strip_suffix(".parquet")?.split_once('-')?;
    Some((partition.parse().ok()?, from.parse().ok()?))
}

/// Removes what an import that failed has written behind the recorded offsets: its records are read again, and perhaps
/// from another offset on, where the broker has deleted some meanwhile.
fn clear_leftovers(state: &Path, offsets: &Offsets) -> Result<(), ConnectError> {
    for entry in std::fs::read_dir(state).map_err(at(state))? {
        let path = entry.map_err(at(state))?.path();
        let Some((partition, from)) = path.file_name().and_then(|name| part_of(name.to_str()?)) else { continue };
        if offsets.next.get(&partition).is_none_or(|next| from >= *next) {
            std::fs::remove_file(&path).map_err(at(&path))?;
        }
    }
    Ok(())
}

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("partition", DataType::Int32, false),
        Field::new("offset", DataType::Int64, false),
        Field::new("timestamp", DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into())), false),
        Field::new("key", DataType::Binary, true),
        Field::new("value", DataType::Binary, true),
    ]))
}

fn batch(partition: i32, records: &[RecordAndOffset]) -> Result<RecordBatch, ConnectError> {
    let mut partitions = Int32Builder::new();
    let mut offsets = Int64Builder::new();
    let mut times = TimestampMillisecondBuilder::new().with_timezone("UTC");
    let mut keys = BinaryBuilder::new();
    let mut values = BinaryBuilder::new();
    for record in records {
        partitions.append_value(partition);
        offsets.append_value(record.offset);
        times.append_value(record.record.timestamp.timestamp_millis());
        keys.append_option(record.record.key.as_deref());
        values.append_option(record.record.value.as_deref());
    }
    let columns: Vec<arrow::array::ArrayRef> = vec![
        Arc::new(partitions.finish()),
        Arc::new(offsets.finish()),
        Arc::new(times.finish()),
        Arc::new(keys.finish()),
        Arc::new(values.finish()),
    ];
    RecordBatch::try_new(schema(), columns).map_err(|error| ConnectError::Malformed { why: error.to_string() })
}

fn read_offsets(state: &Path, topic: &str) -> Result<Offsets, ConnectError> {
    let path = state.join(OFFSETS);
    let wrong = |why: String| ConnectError::State { path: path.clone(), why };
    let text = match std::fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Ok(Offsets { topic: topic.to_owned(), next: BTreeMap::new() });
        }
        Err(error) => return Err(wrong(error.to_string())),
    };
    let offsets: Offsets = serde_json::from_slice(&text).map_err(|error| wrong(error.to_string()))?;
    if offsets.topic != topic {
        return Err(wrong(format!("it is of topic {:?}, not of {topic:?}", offsets.topic)));
    }
    Ok(offsets)
}

fn write_offsets(state: &Path, offsets: &Offsets) -> Result<(), ConnectError> {
    let path = state.join(OFFSETS);
    let text = serde_json::to_vec_pretty(offsets).expect("numbers and text are JSON");
    // Beside it first: half a file would fail every import from here on.
    let draft = state.join("offsets.new");
    std::fs::write(&draft, text).map_err(at(&draft))?;
    std::fs::File::open(&draft).and_then(|file| file.sync_all()).map_err(at(&draft))?;
    std::fs::rename(&draft, &path).map_err(at(&path))?;
    std::fs::File::open(state).and_then(|dir| dir.sync_all()).map_err(at(state))
}

/// The output is every part so far.
fn lay_out(state: &Path, output: &Path, brought: &mut Brought) -> Result<(), ConnectError> {
    for entry in std::fs::read_dir(state).map_err(at(state))? {
        let from = entry.map_err(at(state))?.path();
        if from.extension().is_none_or(|extension| extension != "parquet") {
            continue;
        }
        let to = output.join(from.file_name().unwrap_or_default());
        // The same bytes under two names, where the file system has that; a copy where not.
        if std::fs::hard_link(&from, &to).is_err() {
            std::fs::copy(&from, &to).map_err(at(&to))?;
        }
        let file = std::fs::File::open(&to).map_err(at(&to))?;
        brought.bytes += file.metadata().map_err(at(&to))?.len();
        brought.files += 1;
        let reader = parquet::file::reader::SerializedFileReader::new(file);
        let reader = reader.map_err(|error| ConnectError::State { path: from.clone(), why: error.to_string() })?;
        let rows = parquet::file::reader::FileReader::metadata(&reader).file_metadata().num_rows();
        brought.rows = Some(brought.rows.unwrap_or(0) + u64::try_from(rows).unwrap_or(0));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_failed_import_left_is_not_taken_for_read() {
        let state = tempfile::tempdir().unwrap();
        let offsets = Offsets { topic: "t".to_owned(), next: BTreeMap::from([(0, 5_000), (1, 70)]) };
        write_offsets(state.path(), &offsets).unwrap();
        assert_eq!(read_offsets(state.path(), "t").unwrap().next, offsets.next);
        let parts = [(0, 0), (0, 1_000), (0, 5_000), (0, 5_500), (1, 0), (1, 70), (2, 0)];
        for (partition, from) in parts {
            std::fs::write(state.path().join(part_name(partition, from)), "").unwrap();
        }
        std::fs::write(state.path().join("notes.txt"), "").unwrap();
        clear_leftovers(state.path(), &offsets).unwrap();
        let mut left: Vec<_> = std::fs::read_dir(state.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        let mut expected = vec!["notes.txt".to_owned(), OFFSETS.to_owned()];
        expected.extend([(0, 0), (0, 1_000), (1, 0)].map(|(partition, from)| part_name(partition, from)));
        expected.sort();
        assert_eq!(left, expected);
    }
}
