//! From a rule to the expression that measures it over a table.

use std::collections::BTreeMap;

use datafusion::arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::logical_expr::{Expr, ident, lit, try_cast};
use tombolo_core::expect::{ColumnKind, Rule, Seen, Value};

/// How one rule is measured.
#[derive(Debug, Clone)]
pub(crate) enum Measure {
    /// Without looking at any row.
    Known(Seen),
    /// Rows for which it is true break the rule.
    Rows(Expr),
    /// The largest of its values, which are timestamps.
    Newest(Expr),
    /// Rows that agree with another in all of these columns.
    Groups(Vec<Expr>),
}

/// Types that CSV is read with: what a rule asks for where all values fit it, else text, so that those which don't
/// fit can be counted and shown.
pub(crate) fn csv_schema(inferred: &Schema, rules: &[Rule]) -> Schema {
    let kinds = kinds(rules);
    let field = |field: &Field| {
        let (name, found) = (field.name(), field.data_type());
        let kind = match (kinds.get(name.as_str()), found) {
            (Some(kind), DataType::Null) => arrow_type(*kind),
            (Some(kind), found) if kind_of(found).is_some_and(|found| kind.takes(found)) => found.clone(),
            (Some(_), _) | (None, DataType::Null) => DataType::Utf8,
            (None, found) => found.clone(),
        };
        Field::new(name, kind, true)
    };
    Schema::new(inferred.fields().iter().map(|f| field(f)).collect::<Vec<_>>())
}

/// The types that rules ask for, by column.
fn kinds(rules: &[Rule]) -> BTreeMap<&str, ColumnKind> {
    let mut kinds = BTreeMap::new();
    for rule in rules {
        if let Rule::Kind { column, kind } = rule {
            kinds.insert(column.as_str(), *kind);
        }
    }
    kinds
}

/// How each rule is measured over a table of this schema; `text` says that types are only how its text was read, as
/// in CSV.
pub(crate) fn measures(schema: &DFSchema, rules: &[Rule], text: bool) -> Vec<Measure> {
    let kinds = kinds(rules);
    let mut measures = Vec::new();
    for rule in rules {
        let mut columns = Vec::new();
        for name in rule.columns() {
            let field = schema.fields().iter().find(|field| field.name() == name);
            columns.extend(field.map(|field| Subject::new(field, kinds.get(name.as_str()).copied(), text)));
        }
        measures.push(match columns.len() == rule.columns().len() {
            true => measure(rule, &columns),
            false => Measure::Known(Seen::NoColumn),
        });
    }
    measures
}

/// A column that a rule is about.
struct Subject {
    column: Expr,
    /// The same as the type that is asked for; null where a value isn't of that type.
    typed: Expr,
    data_type: DataType,
    fit: Fit,
}

enum Fit {
    Exact,
    /// Text of which some may be read as the type.
    Some,
    None,
}

impl Subject {
    fn new(field: &Field, wanted: Option<ColumnKind>, text: bool) -> Subject {
        let column = ident(field.name().as_str());
        let (found, exact) = (field.data_type(), Fit::Exact);
        let plain = |fit| Subject { column: column.clone(), typed: column.clone(), data_type: found.clone(), fit };
        match (wanted, kind_of(found)) {
            (None, _) => plain(exact),
            (Some(wanted), Some(kind)) if wanted.takes(kind) => plain(exact),
            _ if *found == DataType::Null => plain(exact),
            (Some(wanted), _) if text => {
                let data_type = arrow_type(wanted);
                let typed = try_cast(column.clone(), data_type.clone());
                Subject { column, typed, data_type, fit: Fit::Some }
            }
            _ => plain(Fit::None),
        }
    }

    fn unfit(&self) -> Measure {
        let word = kind_of(&self.data_type).map(|kind| kind.word().to_owned());
        Measure::Known(Seen::Unfit(format!("is {}", word.unwrap_or_else(|| self.data_type.to_string()))))
    }
}

fn measure(rule: &Rule, columns: &[Subject]) -> Measure {
    let none = Measure::Known(Seen::Rows(0));
    if let Rule::Unique { .. } = rule {
        return Measure::Groups(columns.iter().map(|subject| subject.column.clone()).collect());
    }
    let Some(subject) = columns.first() else { return none };
    let Subject { column, typed, data_type, fit } = subject;
    match (rule, fit) {
        (Rule::Rows { .. } | Rule::Present { .. } | Rule::Unique { .. }, _) => none,
        (Rule::Nulls { .. }, _) => Measure::Rows(column.clone().is_null()),
        (Rule::Kind { .. }, Fit::Exact) => none,
        (Rule::Kind { .. }, Fit::Some) => Measure::Rows(column.clone().is_not_null().and(typed.clone().is_null())),
        (Rule::Kind { .. }, Fit::None) => subject.unfit(),
        // That it has another type is told once, by the rule above.
        (_, Fit::None) => none,
        (Rule::Min { value, .. }, _) => bound(subject, value, |typed, value| typed.lt(value)),
        (Rule::Max { value, .. }, _) => bound(subject, value, |typed, value| typed.gt(value)),
        (Rule::OneOf { values, .. }, _) => {
            let values: Option<Vec<Expr>> = values.iter().map(|value| Some(lit(literal(value, data_type)?))).collect();
            match values {
                Some(values) => Measure::Rows(typed.clone().in_list(values, true)),
                None => subject.unfit(),
            }
        }
        (Rule::Fresh { .. }, _) => match kind_of(data_type) {
            Some(ColumnKind::Date | ColumnKind::Timestamp) => Measure::Newest(typed.clone()),
            _ => subject.unfit(),
        },
    }
}

fn bound(subject: &Subject, value: &Value, breaks: impl Fn(Expr, Expr) -> Expr) -> Measure {
    let text_by_number = kind_of(&subject.data_type) == Some(ColumnKind::Text) && !matches!(value, Value::Text(_));
    match literal(value, &subject.data_type).filter(|_| !text_by_number) {
        None => subject.unfit(),
        Some(value) => {
            let broken = breaks(subject.typed.clone(), lit(value));
            if !subject.data_type.is_floating() {
                return Measure::Rows(broken);
            }
            // NaN is within no bounds; here it counts as larger than any number.
            Measure::Rows(broken.or(subject.typed.clone().eq(lit(f64::NAN))))
        }
    }
}

/// A rule's value, to be compared with a column of the type; none where it can't be.
fn literal(value: &Value, data_type: &DataType) -> Option<ScalarValue> {
    match (kind_of(data_type)?, value) {
        (ColumnKind::Integer | ColumnKind::Number, Value::Integer(number)) => Some(ScalarValue::from(*number)),
        (ColumnKind::Integer | ColumnKind::Number, Value::Number(number)) => Some(ScalarValue::from(*number)),
        (ColumnKind::Boolean, Value::Boolean(value)) => Some(ScalarValue::from(*value)),
        (ColumnKind::Text, Value::Text(text)) => Some(ScalarValue::from(text.as_str())),
        (ColumnKind::Text, other) => Some(ScalarValue::from(other.to_string())),
        (ColumnKind::Date | ColumnKind::Timestamp, Value::Text(text)) => {
            ScalarValue::from(text.as_str()).cast_to(data_type).ok().filter(|value| !value.is_null())
        }
        _ => None,
    }
}

fn kind_of(data_type: &DataType) -> Option<ColumnKind> {
    match data_type {
        found if found.is_integer() => Some(ColumnKind::Integer),
        found if found.is_floating() || found.is_decimal() => Some(ColumnKind::Number),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => Some(ColumnKind::Text),
        DataType::Boolean => Some(ColumnKind::Boolean),
        DataType::Date32 | DataType::Date64 => Some(ColumnKind::Date),
        DataType::Timestamp(..) => Some(ColumnKind::Timestamp),
        DataType::Dictionary(_, values) => kind_of(values),
        _ => None,
    }
}

fn arrow_type(kind: ColumnKind) -> DataType {
    match kind {
        ColumnKind::Integer => DataType::Int64,
        ColumnKind::Number => DataType::Float64,
        ColumnKind::Text => DataType::Utf8,
        ColumnKind::Boolean => DataType::Boolean,
        ColumnKind::Date => DataType::Date32,
        ColumnKind::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, None),
    }
}
