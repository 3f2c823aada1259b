//! `tombolo completions`: what a shell needs to complete commands.

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::failure::Failure;
use crate::{Cli, render};

const EXAMPLES: &str = "\
Examples:
  tombolo completions bash > ~/.local/share/bash-completion/completions/tombolo
  tombolo completions zsh > \"${fpath[1]}/_tombolo\"
  tombolo completions fish > ~/.config/fish/completions/tombolo.fish";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Completions {
    shell: Shell,
}

pub fn run(args: Completions) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "tombolo", &mut script);
    render::text(&String::from_utf8_lossy(&script));
    Ok(())
}
