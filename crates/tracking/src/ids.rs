//! Names and numbers that are made here.

use crate::fault::Fault;

/// 128 random bits in hex, as MLflow's run ids.
pub fn random() -> Result<String, Fault> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| Fault::internal(&std::io::Error::other(error.to_string())))?;
    Ok(data_encoding::HEXLOWER.encode(&bytes))
}

/// A name for a run whose author gave it none.
pub fn run_name() -> Result<String, Fault> {
    const ADJECTIVES: [&str; 16] = [
        "able", "bold", "calm", "deft", "eager", "fair", "glad", "keen", "lucid", "merry", "neat", "quick", "sage",
        "tidy", "vivid", "wise",
    ];
    const NOUNS: [&str; 16] = [
        "auk", "bream", "crane", "dunlin", "egret", "finch", "gull", "heron", "ibis", "knot", "loon", "murre",
        "plover", "rail", "snipe", "tern",
    ];
    let random = random()?;
    let number = u32::from_str_radix(&random[..8], 16).unwrap_or_default();
    let (adjective, noun) = (ADJECTIVES[number as usize % 16], NOUNS[number as usize / 16 % 16]);
    Ok(format!("{adjective}-{noun}-{}", number / 256 % 1000))
}

/// A page's place, opaque to clients.
pub fn page_token(offset: i64) -> String {
    data_encoding::BASE64URL_NOPAD.encode(format!("o{offset}").as_bytes())
}

pub fn page_offset(token: Option<&str>) -> Result<i64, Fault> {
    let Some(token) = token.filter(|token| !token.is_empty()) else { return Ok(0) };
    let bytes = data_encoding::BASE64URL_NOPAD.decode(token.as_bytes()).ok();
    let text = bytes.and_then(|bytes| String::from_utf8(bytes).ok());
    let offset = text.and_then(|text| text.strip_prefix('o')?.parse().ok()).filter(|offset| *offset >= 0);
    offset.ok_or_else(|| Fault::invalid("Invalid page token"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_tokens_come_back() {
        assert_eq!(page_offset(Some(&page_token(1234))), Ok(1234));
        assert_eq!(page_offset(None), Ok(0));
        for bad in ["x", "b-1", &page_token(-1)] {
            assert!(page_offset(Some(bad)).is_err(), "{bad}");
        }
    }
}
