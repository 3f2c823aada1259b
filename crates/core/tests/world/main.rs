//! The control plane's mind, through what its edge calls: tables of what happens and what follows from it.

mod data;
mod life;
mod limits;
mod play;
mod queue;
mod services;
mod sites;
