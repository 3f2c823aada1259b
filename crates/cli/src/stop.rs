//! `tombolo stop`: ends a run, or one stage or service of it.

use clap::Args;
use tombolo_api::wire::RunView;

use crate::failure::Failure;
use crate::names::{self, Target};
use crate::render;
use crate::session::{Global, Output, Session};

const EXAMPLES: &str = "\
Examples:
  tombolo stop flights-7            all of a run
  tombolo stop flights-7/predict    one service of it
  tombolo stop predict              the same, if that is the newest run's";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Stop {
    /// A run, `<run>/<stage>`, or a stage of the newest run
    #[arg(value_name = "RUN|STAGE")]
    what: String,
}

pub async fn run(global: &Global, args: Stop) -> Result<(), Failure> {
    let session = Session::open(global)?;
    let target = names::target(&session, &args.what).await?;
    let path = match &target {
        Target::Run(run) => format!("/v1/runs/{run}/stop"),
        Target::Workload(workload) => format!("/v1/workloads/{}/{}/stop", workload.run, workload.name),
    };
    let _: serde_json::Value = session.create(&path, &serde_json::json!({})).await?;
    eprintln!("{target} is being stopped; what runs gets SIGTERM and its grace time");
    if session.output == Output::Json {
        render::json(&session.client.get::<RunView>(&format!("/v1/runs/{}", target.run())).await?);
    }
    Ok(())
}
