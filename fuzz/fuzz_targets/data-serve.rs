#![no_main]

tombolo_fuzz::target!(tombolo_data::fuzz::serve);
