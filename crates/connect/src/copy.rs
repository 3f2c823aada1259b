//! The binary format of PostgreSQL's COPY, decoded into Arrow batches.
//!
//! Format: <https://www.postgresql.org/docs/current/sql-copy.html>, "Binary Format": a signature, flags, an extension,
//! then for each row a count of fields (16 bits) and each field as a length (32 bits, -1 for null) and its bytes; a
//! count of -1 ends it. All numbers are big-endian; days and microseconds count from 2000-01-01.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryBuilder, BooleanBuilder, Date32Builder, Decimal128Builder, Float32Builder, Float64Builder,
    Int16Builder, Int32Builder, Int64Builder, RecordBatch, StringBuilder, TimestampMicrosecondBuilder,
};
use arrow::datatypes::{DataType, SchemaRef};

use crate::ConnectError;

const SIGNATURE: &[u8; 11] = b"PGCOPY\n\xff\r\n\0";
/// Rows of one batch, and raw bytes after which one is full before that.
const BATCH_ROWS_MAX: usize = 8_192;
const BATCH_BYTES_MAX: usize = 8 << 20;
/// PostgreSQL's own limit of a field.
const FIELD_BYTES_MAX: usize = 1 << 30;
/// From 1970-01-01 to 2000-01-01.
const EPOCH_DAYS: i32 = 10_957;
const EPOCH_MICROS: i64 = EPOCH_DAYS as i64 * 86_400_000_000;

pub(crate) struct Decoder {
    schema: SchemaRef,
    columns: Vec<Builder>,
    buffer: Vec<u8>,
    /// What of the buffer is decoded already.
    at: usize,
    begun: bool,
    ended: bool,
    rows: u64,
    batch_rows: usize,
    batch_bytes: usize,
}

impl Decoder {
    pub fn new(schema: SchemaRef) -> Decoder {
        let columns = schema.fields().iter().map(|field| Builder::new(field.data_type())).collect();
        Decoder {
            schema,
            columns,
            buffer: Vec::new(),
            at: 0,
            begun: false,
            ended: false,
            rows: 0,
            batch_rows: 0,
            batch_bytes: 0,
        }
    }

    pub fn feed(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.at);
        self.at = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// The next full batch; at the end also one that is not full, and an error where the end is not there.
    pub fn batch(&mut self, end: bool) -> Result<Option<RecordBatch>, ConnectError> {
        while !self.full() && self.row()? {}
        if end && !self.ended && !self.full() {
            return Err(malformed("it ends without its mark"));
        }
        if !(self.full() || end && self.batch_rows > 0) {
            return Ok(None);
        }
        self.batch_rows = 0;
        self.batch_bytes = 0;
        let arrays = self.columns.iter_mut().map(Builder::finish).collect();
        let batch = RecordBatch::try_new(self.schema.clone(), arrays).map_err(|error| malformed(&error.to_string()))?;
        Ok(Some(batch))
    }

    fn full(&self) -> bool {
        self.batch_rows >= BATCH_ROWS_MAX || self.batch_bytes >= BATCH_BYTES_MAX
    }

    /// Takes in one row, if all of it is there.
    fn row(&mut self) -> Result<bool, ConnectError> {
        if self.ended || !self.begin()? {
            return Ok(false);
        }
        let Some(fields) = self.extents()? else { return Ok(false) };
        for (i, (from, to)) in fields.into_iter().enumerate() {
            let value = from.map(|from| &self.buffer[from..to]);
            let name = self.schema.field(i).name();
            self.columns[i].push(value).map_err(|why| ConnectError::Value {
                column: name.clone(),
                row: self.rows,
                why,
            })?;
            self.batch_bytes += to.saturating_sub(from.unwrap_or(to));
            self.at = to;
        }
        self.rows += 1;
        self.batch_rows += 1;
        Ok(true)
    }

    fn begin(&mut self) -> Result<bool, ConnectError> {
        if self.begun {
            return Ok(true);
        }
        let fixed = SIGNATURE.len() + 8;
        if self.buffer.len() < fixed {
            return Ok(false);
        }
        if !self.buffer.starts_with(SIGNATURE) {
            return Err(malformed("it is no binary COPY"));
        }
        let extension =
            usize::try_from(i32_at(&self.buffer, SIGNATURE.len() + 4)).map_err(|_| malformed("its header"))?;
        if extension > FIELD_BYTES_MAX {
            return Err(malformed("its header"));
        }
        if self.buffer.len() < fixed + extension {
            return Ok(false);
        }
        self.at = fixed + extension;
        self.begun = true;
        Ok(true)
    }

    /// Where the next row's fields are in the buffer: from (none for null) and to.
    #[allow(clippy::type_complexity)]
    fn extents(&mut self) -> Result<Option<Vec<(Option<usize>, usize)>>, ConnectError> {
        let mut at = self.at;
        if self.buffer.len() < at + 2 {
            return Ok(None);
        }
        let count = i16::from_be_bytes([self.buffer[at], self.buffer[at + 1]]);
        at += 2;
        if count == -1 {
            self.at = at;
            self.ended = true;
            return Ok(None);
        }
        if usize::try_from(count).ok() != Some(self.columns.len()) {
            return Err(malformed(&format!("row {} has {count} fields, not {}", self.rows, self.columns.len())));
        }
        let mut fields = Vec::with_capacity(self.columns.len());
        for _ in 0..self.columns.len() {
            if self.buffer.len() < at + 4 {
                return Ok(None);
            }
            let length = i32_at(&self.buffer, at);
            at += 4;
            if length == -1 {
                fields.push((None, at));
                continue;
            }
            let length = usize::try_from(length).ok().filter(|length| *length <= FIELD_BYTES_MAX);
            let length = length.ok_or_else(|| malformed(&format!("a field's length in row {}", self.rows)))?;
            if self.buffer.len() < at + length {
                return Ok(None);
            }
            fields.push((Some(at), at + length));
            at += length;
        }
        Ok(Some(fields))
    }
}

fn i32_at(bytes: &[u8], at: usize) -> i32 {
    i32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn malformed(why: &str) -> ConnectError {
    ConnectError::Malformed { why: why.to_owned() }
}

/// One column while it is filled.
enum Builder {
    Bool(BooleanBuilder),
    Int2(Int16Builder),
    Int4(Int32Builder),
    Int8(Int64Builder),
    Float4(Float32Builder),
    Float8(Float64Builder),
    Text(StringBuilder),
    Bytes(BinaryBuilder),
    Date(Date32Builder),
    Timestamp(TimestampMicrosecondBuilder),
    Decimal(Decimal128Builder, i8),
}

impl Builder {
    fn new(kind: &DataType) -> Builder {
        match kind {
            DataType::Boolean => Builder::Bool(BooleanBuilder::new()),
            DataType::Int16 => Builder::Int2(Int16Builder::new()),
            DataType::Int32 => Builder::Int4(Int32Builder::new()),
            DataType::Int64 => Builder::Int8(Int64Builder::new()),
            DataType::Float32 => Builder::Float4(Float32Builder::new()),
            DataType::Float64 => Builder::Float8(Float64Builder::new()),
            DataType::Binary => Builder::Bytes(BinaryBuilder::new()),
            DataType::Date32 => Builder::Date(Date32Builder::new()),
            DataType::Timestamp(_, zone) => {
                Builder::Timestamp(TimestampMicrosecondBuilder::new().with_timezone_opt(zone.clone()))
            }
            DataType::Decimal128(precision, scale) => {
                let builder = Decimal128Builder::new().with_data_type(DataType::Decimal128(*precision, *scale));
                Builder::Decimal(builder, *scale)
            }
            _ => Builder::Text(StringBuilder::new()),
        }
    }

    fn push(&mut self, value: Option<&[u8]>) -> Result<(), String> {
        let Some(value) = value else {
            self.push_null();
            return Ok(());
        };
        match self {
            Builder::Bool(builder) => builder.append_value(fixed::<1>(value)? != [0]),
            Builder::Int2(builder) => builder.append_value(i16::from_be_bytes(fixed(value)?)),
            Builder::Int4(builder) => builder.append_value(i32::from_be_bytes(fixed(value)?)),
            Builder::Int8(builder) => builder.append_value(i64::from_be_bytes(fixed(value)?)),
            Builder::Float4(builder) => builder.append_value(f32::from_be_bytes(fixed(value)?)),
            Builder::Float8(builder) => builder.append_value(f64::from_be_bytes(fixed(value)?)),
            Builder::Text(builder) => builder.append_value(text(value)?),
            Builder::Bytes(builder) => builder.append_value(value),
            Builder::Date(builder) => {
                let days = i32::from_be_bytes(fixed(value)?);
                builder.append_value(days.checked_add(EPOCH_DAYS).filter(|_| days != i32::MIN).ok_or(INFINITE)?);
            }
            Builder::Timestamp(builder) => {
                let micros = i64::from_be_bytes(fixed(value)?);
                builder.append_value(micros.checked_add(EPOCH_MICROS).filter(|_| micros != i64::MIN).ok_or(INFINITE)?);
            }
            Builder::Decimal(builder, scale) => builder.append_value(decimal(text(value)?, *scale)?),
        }
        Ok(())
    }

    fn push_null(&mut self) {
        match self {
            Builder::Bool(builder) => builder.append_null(),
            Builder::Int2(builder) => builder.append_null(),
            Builder::Int4(builder) => builder.append_null(),
            Builder::Int8(builder) => builder.append_null(),
            Builder::Float4(builder) => builder.append_null(),
            Builder::Float8(builder) => builder.append_null(),
            Builder::Text(builder) => builder.append_null(),
            Builder::Bytes(builder) => builder.append_null(),
            Builder::Date(builder) => builder.append_null(),
            Builder::Timestamp(builder) => builder.append_null(),
            Builder::Decimal(builder, _) => builder.append_null(),
        }
    }

    fn finish(&mut self) -> ArrayRef {
        match self {
            Builder::Bool(builder) => Arc::new(builder.finish()),
            Builder::Int2(builder) => Arc::new(builder.finish()),
            Builder::Int4(builder) => Arc::new(builder.finish()),
            Builder::Int8(builder) => Arc::new(builder.finish()),
            Builder::Float4(builder) => Arc::new(builder.finish()),
            Builder::Float8(builder) => Arc::new(builder.finish()),
            Builder::Text(builder) => Arc::new(builder.finish()),
            Builder::Bytes(builder) => Arc::new(builder.finish()),
            Builder::Date(builder) => Arc::new(builder.finish()),
            Builder::Timestamp(builder) => Arc::new(builder.finish()),
            Builder::Decimal(builder, _) => Arc::new(builder.finish()),
        }
    }
}

const INFINITE: &str = "infinity is no date here";

fn fixed<const N: usize>(value: &[u8]) -> Result<[u8; N], String> {
    value.try_into().map_err(|_| format!("{} bytes came where {N} were expected", value.len()))
}

fn text(value: &[u8]) -> Result<&str, String> {
    std::str::from_utf8(value).map_err(|_| "it is not UTF-8".to_owned())
}

/// A decimal's digits as a whole number of units of its last place.
fn decimal(text: &str, scale: i8) -> Result<i128, String> {
    let wrong = || format!("{text} is no number with {scale} places");
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text),
    };
    let (whole, places) = digits.split_once('.').unwrap_or((digits, ""));
    let scale = usize::try_from(scale).map_err(|_| wrong())?;
    let plain = !whole.is_empty() && whole.bytes().chain(places.bytes()).all(|byte| byte.is_ascii_digit());
    if !plain || places.len() > scale {
        return Err(wrong());
    }
    let units: i128 = format!("{whole}{places:0<scale$}").parse().map_err(|_| wrong())?;
    Ok(if negative { -units } else { units })
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::{Field, Schema, TimeUnit};
    use arrow::util::pretty::pretty_format_batches;

    use super::*;

    fn schema(kinds: &[DataType]) -> SchemaRef {
        let field = |(i, kind): (usize, &DataType)| Field::new(format!("c{i}"), kind.clone(), true);
        Arc::new(Schema::new(kinds.iter().enumerate().map(field).collect::<Vec<_>>()))
    }

    fn copy(rows: &[Vec<Option<Vec<u8>>>]) -> Vec<u8> {
        let mut bytes = SIGNATURE.to_vec();
        bytes.extend([0; 8]);
        for row in rows {
            bytes.extend(i16::try_from(row.len()).expect("few").to_be_bytes());
            for value in row {
                match value {
                    None => bytes.extend((-1i32).to_be_bytes()),
                    Some(value) => {
                        bytes.extend(i32::try_from(value.len()).expect("short").to_be_bytes());
                        bytes.extend(value);
                    }
                }
            }
        }
        bytes.extend((-1i16).to_be_bytes());
        bytes
    }

    fn decode(schema: &SchemaRef, bytes: &[u8], step: usize) -> Result<Vec<RecordBatch>, ConnectError> {
        let mut decoder = Decoder::new(schema.clone());
        let mut batches = Vec::new();
        for piece in bytes.chunks(step) {
            decoder.feed(piece);
            while let Some(batch) = decoder.batch(false)? {
                batches.push(batch);
            }
        }
        while let Some(batch) = decoder.batch(true)? {
            batches.push(batch);
        }
        Ok(batches)
    }

    #[test]
    fn values_of_every_type_however_the_bytes_are_cut() {
        let micros = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
        let schema = schema(&[DataType::Int32, DataType::Utf8, DataType::Date32, micros, DataType::Decimal128(10, 2)]);
        let rows = [
            vec![
                Some(7i32.to_be_bytes().to_vec()),
                Some("håp".into()),
                Some(1i32.to_be_bytes().to_vec()),
                Some(1_000_000i64.to_be_bytes().to_vec()),
                Some("-12.3".into()),
            ],
            vec![None, None, None, None, None],
        ];
        for step in [1, 3, 7, 1000] {
            let batches = decode(&schema, &copy(&rows), step).expect("decodes");
            let text = pretty_format_batches(&batches).expect("prints").to_string();
            assert!(text.contains("| 7  | håp | 2000-01-02 | 2000-01-01T00:00:01Z | -12.30 |"), "{text}");
            assert_eq!(batches.iter().map(RecordBatch::num_rows).sum::<usize>(), 2);
        }
    }

    #[test]
    fn batches_are_bounded() {
        let schema = schema(&[DataType::Int64]);
        let rows: Vec<_> = (0..20_000i64).map(|i| vec![Some(i.to_be_bytes().to_vec())]).collect();
        let batches = decode(&schema, &copy(&rows), 1 << 16).expect("decodes");
        let sizes: Vec<_> = batches.iter().map(RecordBatch::num_rows).collect();
        assert_eq!(sizes, [BATCH_ROWS_MAX, BATCH_ROWS_MAX, 20_000 - 2 * BATCH_ROWS_MAX]);
    }

    #[test]
    fn what_is_cut_short_or_foreign_is_refused() {
        let schema = schema(&[DataType::Int32]);
        let whole = copy(&[vec![Some(7i32.to_be_bytes().to_vec())]]);
        for length in 0..whole.len() {
            decode(&schema, &whole[..length], 8).expect_err("cut short");
        }
        let mut foreign = whole.clone();
        foreign[0] = b'X';
        decode(&schema, &foreign, 8).expect_err("foreign");
        decode(&schema, &copy(&[vec![Some(vec![1, 2])]]), 8).expect_err("an int4 of two bytes");
        decode(&schema, &copy(&[vec![None, None]]), 8).expect_err("two fields for one column");
        let mut endless = whole[..19].to_vec();
        endless.extend([0, 1, 0x7f, 0xff, 0xff, 0xff]);
        decode(&schema, &endless, 8).expect_err("a field longer than any");
    }

    #[test]
    fn decimals_are_exact() {
        assert_eq!(decimal("12.3", 2), Ok(1230));
        assert_eq!(decimal("-0.05", 2), Ok(-5));
        assert_eq!(decimal("7", 0), Ok(7));
        for wrong in ["NaN", "1.234", "", "-", "1e5", ".5"] {
            decimal(wrong, 2).expect_err(wrong);
        }
    }
}
