//! `tombolo history`: where a stage or service has been, and why it went there.

use clap::Args;
use tombolo_api::wire::StayView;

use crate::failure::Failure;
use crate::moves;
use crate::render;
use crate::session::{Global, Output, Session};

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  tombolo history train\n  tombolo history flights-7/predict --output json")]
pub struct History {
    /// `<run>/<stage>`, or a stage or service of the newest run
    #[arg(value_name = "STAGE")]
    what: String,
}

pub async fn run(global: &Global, args: History) -> Result<(), Failure> {
    let session = Session::open(global)?;
    let id = moves::workload(&session, &args.what).await?;
    let path = format!("/v1/workloads/{}/{}/history", id.run, id.name);
    let stays: Vec<StayView> = session.client.get(&path).await?;
    if session.output == Output::Json {
        render::json(&stays);
        return Ok(());
    }
    if stays.is_empty() {
        eprintln!("{id} has been nowhere yet");
        return Ok(());
    }
    let row = |stay: &StayView| {
        vec![
            stay.epoch.to_string(),
            stay.site.clone(),
            render::clock(stay.from),
            stay.to.map_or_else(|| "now".to_owned(), render::clock),
            render::span(stay.lasted_ms),
            render::bytes(stay.bytes_in),
            render::money(stay.cost),
            stay.why.clone(),
            stay.ended.clone().unwrap_or_else(|| "-".to_owned()),
        ]
    };
    let header = ["epoch", "site", "from", "to", "lasted", "read", "cost", "why there", "ended"];
    render::text(&render::table(&header, &[0, 4, 5, 6], stays.iter().map(row).collect()));
    Ok(())
}
